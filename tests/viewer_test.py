"""Tests of a run's pages, in a real Chromium, of 500 episodes."""
import html
import json
import re
import time

import pytest

from step_jax.envs import reading
from step_jax.envs.miniwob import browser
from step_jax.runs import viewer
from tests import made_up_run

_RIGHT, _END = '\ue014', '\ue010'  # WebDriver's names of keys


@pytest.fixture(scope='module', name='report')
def made_report(tmp_path_factory):
  """The folder of pages of a run with hostile names and texts."""
  workdir = tmp_path_factory.mktemp('viewer') / 'run'
  tasks = made_up_run.make(workdir)
  page = viewer.write_pages(
      workdir, tasks, reading.screen, title=made_up_run.HOSTILE,
      about=viewer.read_facts(workdir), max_steps=3)
  return page.parent


def _data(page):
  text = re.search('id="data">(.*?)</script>', page.read_text(), re.S)[1]
  return json.loads(text)


def test_every_link_and_picture_is_there_and_every_text_is_escaped(report):
  pages = [report / 'index.html', *(report / 'episodes').glob('*.html')]
  assert len(pages) == 501
  for page in pages:
    text = page.read_text()
    links = re.findall('(?:href|src)="([^"]*)"', text)
    names = [html.unescape(x) for x in links if not x.startswith('data:')]
    names += [step['picture'] for step in _data(page).get('steps', ())
              if 'picture' in step]
    assert len(names) >= 3
    assert all((page.parent / name).is_file() for name in names), page
    assert text.count('<script') == 2 and '<b ' not in text


def test_a_page_tells_what_happened(report):
  steps = _data(report / 'episodes' / 'e799-0.html')['steps']
  assert len(steps) == 3
  step = steps[1]
  assert step['action']['text'] == f'click {made_up_run.HOSTILE}'
  assert len(step['elements']) == 8 and len(step['tokens']) == 3
  assert step['elements'][3]['text'] == 'settings'
  assert len(step['others']) == 4 and steps[0]['others'] is None
  assert all(other['match'] == (other['advantage'] == step['advantage'])
             for other in step['others'])
  # What the list says of it is by the number of steps, or of what broke.
  text = (report / 'index.html').read_text()
  found = dict(re.findall(
      'data-outcome="(.*?)".*?episodes/(.*?).html', text, re.S))
  assert set(found) == {'success', 'wrong', 'out of steps', 'lost'}
  assert found['lost'] == 'r799-11'


def test_pages_of_episodes_that_are_gone_go_too(tmp_path):
  made_up_run.make(tmp_path, num_rounds=3, num_tasks=2, num_episodes=4)
  folder = tmp_path / 'report' / 'episodes'
  folder.mkdir(parents=True)
  (folder / 'r0-99.html').write_text('')
  viewer.write_pages(tmp_path, ['a', 'b'], reading.screen, title='', about=[],
                     max_steps=4)
  assert sorted(path.stem for path in folder.iterdir()) == [
      'e2-0', 'r2-1', 'r2-2', 'r2-3']


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
  page = viewer.write_pages(tmp_path, ['a'], reading.screen, title='new',
                            about=[], max_steps=4)
  assert 'No round is done yet.' in page.read_text()


@pytest.mark.chromium
def test_the_pages_work_in_a_browser(report, clean_up):
  window = browser.Browser(1200, 900)
  try:
    _use(window, report)
  finally:
    window.close()


def _use(window, report):
  def ask(expression):
    return window.run(f'return {expression}')

  def place(query):
    return ask(f'(box => [box.x, box.y, box.width, box.height])(document'
               f'.querySelector("{query}").getBoundingClientRect())')

  def assert_harmless():
    assert ask('[window.harmed, document.querySelector("#harm")]') == [
        None, None]

  started = time.monotonic()
  window.open((report / 'index.html').as_uri())
  print(f'500 episodes are there after {time.monotonic() - started:.2f} s')
  assert_harmless()
  assert ask('document.title') == made_up_run.HOSTILE
  assert ask('document.querySelectorAll(".chart path").length') > 20
  assert ask('[...document.querySelectorAll("canvas")].map(x => [x.width, '
             'x.height])') == [[800, 369]]
  # A drag zooms all charts; a click shows them whole.
  x, y, width, height = place('.chart')
  window.drag((x + .5 * width, y + 50), (x + .7 * width, y + 50), num_moves=2)
  assert 300 < ask('zoom[0]') < ask('zoom[1]') < 600
  assert ask('charts.every(chart => chart.x0 === zoom[0])')
  window.run('document.querySelector("#unzoom").click()')
  assert ask('charts[0].x1') == 800
  # A click on the map shows the task's episodes, and the other layer differs.
  window.run('document.querySelector("canvas").scrollIntoView()')
  before = ask('document.querySelector("canvas").toDataURL()')
  window.run('document.querySelectorAll("#layers button")[1].click()')
  assert ask('document.querySelector("canvas").toDataURL()') != before
  x, y, width, height = place('canvas')
  window.click(x + width / 2, y + 3)
  task = ask('document.querySelector("#find").value')
  assert task == ask('data.map.tasks')[2] or task in ask('data.map.tasks')[:4]
  shown = ask('[...document.querySelectorAll("tbody tr")].filter(x => '
              '!x.hidden).map(x => x.dataset.task)')
  assert shown and all(task in name for name in shown)
  # Keys move in an episode and to the next.
  window.open((report / 'episodes' / 'e799-0.html').as_uri())
  for keys, step in (((), 1), ((_RIGHT,), 2), ((_END,), 3), ((_RIGHT,), 3)):
    window.press(*keys)
    assert ask('document.querySelector("#side small").textContent') == (
        f'step {step} of 3')
  assert ask('document.querySelector("#screen rect[stroke]") !== null')
  assert made_up_run.HOSTILE in ask('document.querySelector("#side").innerText')
  assert_harmless()
  window.press('n')
  following = ask('location.href')
  assert 'e799-0' not in following
  window.press('p')
  assert 'e799-0' in ask('location.href')
  # No page is wider than a phone.
  window._cdp('Emulation.setDeviceMetricsOverride', width=400, height=800,
              deviceScaleFactor=1, mobile=False)
  for name in ('index.html', 'episodes/e799-0.html', 'episodes/r799-4.html'):
    window.open((report / name).as_uri())
    assert ask('document.documentElement.scrollWidth') <= 400
    assert_harmless()
