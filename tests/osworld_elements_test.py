"""Accessibility trees as elements, element actions as actions."""

import pathlib
import types

import pytest

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import elements
from tests import fake_desktop

SIZE = (1280, 720)
DATA = pathlib.Path(__file__).parent / 'data'
Action = actions.Action
node = fake_desktop.node


def parse(*windows):
  return elements.parse(fake_desktop.tree(*windows), SIZE)


def frame(*children, name='Win', box=(0, 0, 1280, 720), states='active'):
  return node('frame', name, box, *children, states=states)


def shown(*children, **kwargs):
  """Kind, text and value of what a window of these children shows."""
  return [(item.record.kind, item.record.text, item.record.value)
          for item in parse(frame(*children, **kwargs)).items][1:]


def test_an_element():
  tree = parse(frame(node('check-box', 'Bold ', (128, 72, 64, 36),
                          states='focused checked')))
  record = tree.items[1].record
  assert record == base.Element(
      kind='check-box', text='Bold', box=(.1, .1, .05, .05), focused=True,
      selected=True)
  assert tree.items[1].point == (.125, .125)
  assert tree.items[0].record == base.Element(
      kind='frame', text='Win', box=(0, 0, 1, 1), interactive=False)


@pytest.mark.parametrize('state', [
    'checked', 'selected', 'expanded', 'pressed', 'focused', 'editable'])
def test_flags(state):
  record = parse(frame(node('entry', 'a', states=state))).items[-1].record
  assert record.focused == (state == 'focused')
  assert record.editable == (state == 'editable')
  assert record.selected == (state not in ('focused', 'editable'))


def test_what_is_not_shown_or_off_the_screen_or_disabled_is_left_out():
  def hide(element, state):
    return element.replace(f'st:{state}="true"', '')

  def button(name, box=(0, 0, 9, 9)):
    return node('push-button', name, box)

  assert shown(
      hide(button('hidden'), 'showing'),
      hide(node('panel', '', (0, 0, 9, 9), button('in hidden')), 'showing'),
      hide(hide(button('grey'), 'enabled'), 'sensitive'),
      button('left', (-20, 0, 10, 10)), button('below', (0, 720, 10, 10)),
      button('flat', (0, 0, 10, 0)), button('none', (-1, -1, -1, -1)),
      node('scroll-pane', '', (0, 0, 100, 100), button('out', (0, 200, 9, 9)),
           button('in', (0, 50, 9, 9))),
      node('page-tab', '', (-1, -1, -1, -1), button('deep')),
      button(''), node('panel', 'a panel'),
  ) == [('push-button', 'in', ''), ('push-button', 'deep', '')]


def test_boxes_are_cut_at_the_screen_and_at_scroll_panes():
  tree = parse(frame(
      node('push-button', 'a', (-64, 0, 128, 72)),
      node('scroll-pane', '', (0, 0, 640, 360),
           node('list-item', 'b', (0, 324, 128, 72)))))
  assert [item.record.box for item in tree.items[1:]] == [
      (0, 0, .05, .1), (0, .45, .1, .05)]
  assert tree.items[2].point == (.05, .475)


def test_an_open_menu_leaves_the_pane_of_its_bar():
  assert shown(node('viewport', '', (0, 0, 1280, 25), node(
      'menu', 'File', (0, 0, 40, 25),
      node('menu-item', 'Save', (0, 25, 100, 25))))) == [
          ('menu', 'File', ''), ('menu-item', 'Save', '')]


def test_names_of_what_has_none():
  label = node('label', 'Name:', (10, 0, 40, 20))
  assert shown(
      label, node('entry', '', (60, 0, 100, 20), states='editable', text='x'),
      node('entry', '', (60, 100, 100, 20), states='editable'),
  ) == [('label', 'Name:', ''), ('entry', 'Name:', 'x'), ('entry', '', '')]
  assert shown(node('list-item', '', (0, 0, 99, 20), node(
      'panel', '', (0, 0, 99, 20), node('icon', '', (0, 0, 9, 9)),
      node('label', 'Home', (9, 0, 50, 20), text='Home')))) == [
          ('list-item', 'Home', '')]
  assert shown(node('icon', '', text='a.txt')) == [('icon', 'a.txt', '')]
  assert shown(node('menu', 'File', text='File')) == [('menu', 'File', '')]


def test_a_label_names_what_is_to_its_right_and_not_far_off():
  """Of 200 pixels at most; the nearest of two, and none that comes after."""
  def entry(left):
    return node('entry', '', (left, 0, 20, 20), states='editable')

  def label(name, left):
    return node('label', name, (left, 0, 40, 20))

  assert shown(label('far', 0), label('near', 60), entry(300), label(
      'behind', 330)) == [
          ('label', 'far', ''), ('label', 'near', ''),
          ('entry', 'near', ''), ('label', 'behind', '')]
  assert shown(label('out', 0), entry(241))[1] == ('entry', '', '')
  assert shown(entry(0), label('behind', 30))[0] == ('entry', '', '')


@pytest.mark.parametrize('name, place', [
    ('A1', (1, 1)), ('Z9', (26, 9)), ('AA10', (27, 10)), ('AZ1', (52, 1)),
    ('BA1', (53, 1)), ('AMJ1048576', (1024, 1048576)), ('a1', (0, 0)),
    ('A0', (0, 0)), ('Name', (0, 0))])
def test_places_of_cells(name, place):
  # 26 columns of one letter come first, so AA is the 27th.
  assert elements._place(types.SimpleNamespace(name=name)) == place


def test_cells_of_sheets_and_of_lists():
  assert shown(
      node('table-cell', 'A1', states='editable multi-line', text='5'),
      node('table-cell', '', (0, 50, 99, 20),
           node('table-cell', '', (0, 50, 9, 20)),
           node('table-cell', 'a.txt', (9, 50, 90, 20), text='a.txt')),
  ) == [('table-cell', 'A1', '5'), ('table-cell', 'a.txt', '')]


def test_what_is_typed_into_depends_on_the_element():
  tree = parse(frame(
      node('table-cell', 'A1', states='editable multi-line'),
      node('entry', '', states='editable single-line'),
      node('text', '', states='editable multi-line'),
      node('text', 'fixed', states='multi-line'),
      node('panel', 'p', states='editable')))
  assert [item.typing for item in tree.items] == ['', 'cell', 'line', 'text',
                                                  '']


def test_a_modal_dialog_hides_all_else():
  back = frame(node('push-button', 'behind', (900, 600, 9, 9)), states='')
  dialog = node('dialog', 'Ask', (100, 100, 200, 100),
                node('label', 'Sure?', (100, 100, 50, 20)),
                node('push-button', 'OK', (200, 150, 50, 20)),
                states='active modal')
  assert [item.record.text for item in parse(back, dialog).items] == [
      'Ask', 'Sure?', 'OK']


def test_what_the_active_window_covers_is_left_out():
  back = frame(node('push-button', 'covered', (10, 10, 9, 9)),
               node('push-button', 'free', (900, 10, 9, 9)), states='',
               name='Back')
  front = frame(node('push-button', 'front', (20, 20, 9, 9)),
                box=(0, 0, 640, 720))
  tree = parse(back, front)
  assert [item.record.text for item in tree.items] == [
      'Back', 'free', 'Win', 'front']
  assert tree.scroll_point == (.25, .5)


def _sheet(rows, columns, filled):
  return [
      node('table-cell', f'{chr(65 + column)}{row + 1}',
           (column * 40, 100 + row * 20, 40, 20), states='editable',
           text='x' if (row, column) in filled else '')
      for row in range(rows) for column in range(columns)]


def test_what_is_kept_when_there_is_too_much():
  """Menus first, then cells that hold something or are near to those."""
  bar = node('tool-bar', '', (0, 20, 1280, 20), *(
      node('push-button', f'tool {i}', (i * 20, 20, 20, 20))
      for i in range(40)))
  menus = [node('menu', f'menu {i}', (i * 40, 0, 40, 20)) for i in range(10)]
  filled = {(row, column) for row in range(4) for column in range(3)}
  tree = parse(frame(*menus, bar, *_sheet(25, 20, filled)))
  assert len(tree.items) == base.MAX_ELEMENTS
  texts = [item.record.text for item in tree.items]
  kinds = [item.record.kind for item in tree.items]
  assert kinds.count('menu') == 10
  cells = [text for text, kind in zip(texts, kinds) if kind == 'table-cell']
  assert {'A1', 'C4', 'A5', 'C5', 'D1', 'D4'} <= set(cells)
  # The frontier: at most two steps from what is filled.
  assert set(cells) <= {f'{letter}{row}' for letter in 'ABCDE'
                        for row in range(1, 7)}
  assert kinds.count('push-button') == 48 - 1 - 10 - len(cells)


def test_buttons_of_a_dialog_survive_a_long_list():
  rows = []
  for row in range(40):
    top = 100 + 10 * row
    rows += [node('table-cell', f'file {row}', (0, top, 100, 10)),
             node('table-cell', '3 kB', (100, top, 100, 10))]
  tree = parse(frame(states=''), node(
      'file-chooser', 'Save', (0, 0, 1280, 720),
      node('text', '', (0, 0, 100, 20), states='editable single-line'),
      *rows, node('push-button', 'Save', (900, 700, 50, 20)),
      states='active modal'))
  texts = [item.record.text for item in tree.items]
  assert texts[:2] == ['Save', ''] and texts[-1] == 'Save'
  assert {f'file {row}' for row in range(40)} <= set(texts)
  assert texts.count('3 kB') == base.MAX_ELEMENTS - 43


def test_items_of_an_open_menu_survive():
  items = [node('menu-item', f'item {i}', (0, 20 * i, 200, 20))
           for i in range(30)]
  tree = parse(frame(
      node('menu', 'File', (0, 0, 40, 20), *items, states='selected'),
      *(node('push-button', f'b{i}', (300, 10 * i, 9, 9)) for i in range(60))))
  texts = [item.record.text for item in tree.items]
  assert {f'item {i}' for i in range(30)} <= set(texts)
  assert len(texts) == base.MAX_ELEMENTS


def test_libreoffice_forgets_its_menu_bar():
  """What it draws is told 25 pixels too high, GTK's widgets in it are right."""
  tree = parse(frame(
      node('panel', '', (0, 44, 1280, 676), node(
          'root-pane', 'doc', (0, 19, 1280, 676),
          node('menu-bar', '', (0, 19, 1280, 0),
               node('menu', 'wrong', (0, 19, 30, 19))),
          node('table-cell', 'A1', (41, 197, 82, 17), states='editable',
               text='x'),
          node('tool-bar', '', (0, 97, 1280, 40),
               node('push-button', 'Bold', (300, 99, 30, 30)),
               node('panel', '', (4, 99, 162, 34),
                    node('panel', '', (4, 124, 162, 34),
                         node('text', '', (4, 124, 126, 34), text='A1',
                              states='editable single-line'))))))))
  tops = [(item.record.kind, round(item.record.box[1] * 720))
          for item in tree.items]
  assert tops == [('frame', 0), ('table-cell', 222), ('push-button', 124),
                  ('text', 124)]


@pytest.mark.parametrize('xml', ['', 'x', '<a>', '<a/><b/>', '<a b=1/>'])
def test_garbage_is_an_error(xml):
  with pytest.raises(ValueError, match='expected an accessibility tree'):
    elements.parse(xml, SIZE)


@pytest.mark.parametrize('attribute', [
    'cp:size="(1e9, 1)"', 'cp:size="x"', 'cp:screencoord=""', 'name=""'])
def test_odd_attributes_are_skipped(attribute):
  xml = fake_desktop.tree(frame(
      f'<push-button st:showing="true" {attribute}/>'))
  assert len(elements.parse(xml, SIZE).items) == 1


def test_an_empty_screen():
  tree = elements.parse('<desktop-frame/>', SIZE)
  assert tree == ((), (.5, .5), True)


# Words.


@pytest.mark.parametrize('text, words', [
    ('Type "=SUM(B2:B4)" into B5.', ['Type', '=SUM(B2:B4)', 'into', 'B5']),
    ('Save as "report.txt".', ['Save', 'as', 'report.txt']),
    ('(see /etc/a), -5!', ['see', '/etc/a', '-5']),
    ('f(x) [a] {b}', ['f(x)', 'a', 'b']),
    ('... "" now', ['now']),
    ('$5 50% .bashrc ~/a', ['$5', '50%', '.bashrc', '~/a']),
])
def test_typed_words(text, words):
  assert elements.typed_words(text) == words
  assert len(words) == len(base.split_words(text))


def test_hostile_words_stay_words():
  text = '\'); import os; os.system("touch owned")'
  assert elements.typed_words(text) == ['import', 'os', 'os.system("touch',
                                        'owned']
  assert base.split_words(text) == ['import', 'os', 'os.system("touch',
                                    'owned']


# Actions.

POINT = (.25, .5)
CLICK = Action(kind='click', point=POINT)
TREE = elements.Tree((), (.5, .75))


def plan(verb, typing='', value='', word='word'):
  record = base.Element(kind='text', value=value)
  item = elements.Item(record, POINT, typing)
  return elements.plan(
      verb, item if verb in ('click', 'type') else None, word, TREE)


def typed(text):
  return Action(kind='type', text=text)


def press(*keys):
  return Action(kind='hotkey', keys=keys)


@pytest.mark.parametrize('kind, selected, typing, double', [
    ('icon', True, '', True), ('icon', False, '', False),
    ('table-cell', True, '', True), ('table-cell', True, 'cell', False),
    ('check-box', True, '', False)])
def test_a_click_on_what_is_selected_opens_it(kind, selected, typing, double):
  item = elements.Item(
      base.Element(kind=kind, selected=selected), POINT, typing)
  action, = elements.plan('click', item, '', TREE)
  assert action.kind == ('double_click' if double else 'click')


def test_what_verbs_do():
  assert plan('click') == (CLICK,)
  assert plan('back') == (press('esc'),)
  assert plan('done') == (Action(kind='done'),)
  assert plan('fail') == (Action(kind='fail'),)
  for direction in ('up', 'down'):
    assert plan(f'scroll_{direction}') == (Action(
        kind='scroll', point=(.5, .75), direction=direction, amount=5),)


@pytest.mark.parametrize('typing, value, expected', [
    ('line', 'old', (CLICK, press('ctrl', 'a'), typed('word'))),
    ('cell', 'old', (CLICK, typed('word'), press('enter'))),
    ('text', '', (CLICK, press('ctrl', 'end'), typed('word'))),
    ('text', 'a', (CLICK, press('ctrl', 'end'), typed(' word'))),
    ('text', 'a\n', (CLICK, press('ctrl', 'end'), typed('word'))),
])
def test_what_typing_does(typing, value, expected):
  assert plan('type', typing, value) == expected


# What the bare desktop told: pcmanfm, mousepad's dialog, LibreOffice Calc.


def _sample(name):
  xml = (DATA / f'osworld_{name}.xml').read_text('utf-8')
  items = elements.parse(xml, SIZE).items
  return [(item.record.kind, item.record.text, item.record.value)
          for item in items], items


def test_an_open_menu_of_the_file_manager():
  shown, items = _sample('files')
  assert shown[:5] == [
      ('frame', 'Documents', ''), ('menu', 'File', ''), ('menu', 'Edit', ''),
      ('menu-item', 'Open', ''), ('menu-item', 'Cut', '')]
  assert ('menu-item', 'Rename...', '') in shown
  assert ('table-cell', 'Home Folder', '') in shown
  assert ('text', '', '/home/user/Documents') in shown
  icon = items[shown.index(('icon', 'draft.txt', ''))]
  assert icon.record.selected
  assert elements.plan('click', icon, '', TREE)[0].kind == 'double_click'


def test_a_dialog_to_save_a_file():
  shown, items = _sample('dialog')
  assert shown[:2] == [('file-chooser', 'Save As', ''), ('text', 'Name:', '')]
  assert items[1].typing == 'line' and items[1].record.focused
  assert [text for kind, text, _ in shown if kind == 'list-item'] == [
      'Home', 'Desktop', 'Documents', 'Downloads', 'Music', 'Pictures',
      'Videos', 'Other Locations']
  assert shown[-1] == ('push-button', 'Cancel', '')  # Save is not enabled yet


def test_a_spreadsheet():
  shown, items = _sample('calc')
  assert len(shown) == base.MAX_ELEMENTS
  assert [text for kind, text, _ in shown if kind == 'menu'] == [
      'File', 'Edit', 'View', 'Insert', 'Format', 'Styles', 'Sheet', 'Data',
      'Tools', 'Window', 'Help']
  cells = {text: value for kind, text, value in shown if kind == 'table-cell'}
  assert {name: value for name, value in cells.items() if value} == {
      'A1': 'Name', 'B1': 'Price', 'A2': 'ant', 'B2': '3', 'A3': 'bee',
      'B3': '7'}
  assert {'C1', 'B4', 'B5', 'C4'} <= set(cells) and 'E1' not in cells
  point = items[shown.index(('table-cell', 'B3', '7'))].point
  assert actions.to_pixel(point, SIZE) == (156, 232)  # as on the picture
