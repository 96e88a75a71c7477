"""One headless Chromium, driven by Debian's chromedriver and no network.

The thin layer under `miniwob.py`: it opens local pages, runs scripts whose
arguments are data, and makes trusted mouse and key events. Selenium is
imported when a browser starts, so this module needs nothing but Python.
"""

from collections.abc import Callable, Sequence
import contextlib
import importlib.util
import os
import pathlib
import shlex
import shutil
import signal
import tempfile
import time
from typing import Any

from step_jax.envs import base

_FLAGS = (
    # Over the pipe the browser notices, and ends, when its driver has died.
    '--remote-debugging-pipe',
    '--headless', '--disable-gpu', '--hide-scrollbars', '--mute-audio',
    '--disable-quic', '--no-first-run', '--no-default-browser-check',
    '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--disable-extensions', '--disable-dev-shm-usage',
    '--password-store=basic', '--no-proxy-server',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost',
    # With the first, timers wait for the next frame, 16 ms, after every click;
    # with the second, pages that were left are kept in memory.
    '--disable-features=DeferRendererTasksAfterInput,BackForwardCache',
)
_COMMAND_TIMEOUT = 30  # seconds
_EXIT_TIMEOUT = 5  # seconds
# Chromium puts '/org.chromium.Chromium.XXXXXX/SingletonSocket' into TMPDIR, and
# hangs where that is longer than the 107 bytes of a socket's name.
_LONGEST_TMPDIR = 60
# A page hears of the wheel with the frame after the one that it moves.
_TWO_FRAMES = ('return new Promise(done => requestAnimationFrame('
               '() => requestAnimationFrame(done)))')
_CONTROL = '\ue009'  # WebDriver's name of the key


class BrowserError(RuntimeError):
  """The browser or its driver broke; the episode is lost."""


def find_programs() -> tuple[str, str]:
  """Returns the paths of chromium and chromedriver.

  The environment variables MINIWOB_CHROME_BINARY and MINIWOB_CHROMEDRIVER
  come first, then the search path.

  Raises:
    MissingProgramError: one sentence that says what to install.
  """
  chromium = _find('MINIWOB_CHROME_BINARY', 'chromium', 'chromium-browser',
                   'google-chrome')
  chromedriver = _find('MINIWOB_CHROMEDRIVER', 'chromedriver')
  missing = [name for name, path in (
      ('chromium', chromium), ('chromedriver', chromedriver)) if path is None]
  if chromium is None or chromedriver is None:
    raise base.MissingProgramError(
        f'{" and ".join(missing)} not found: install with '
        '`apt-get install chromium chromium-driver`.')
  if importlib.util.find_spec('selenium') is None:
    raise base.MissingProgramError(
        "The package selenium is not installed: install with "
        "`pip install 'step_jax[miniwob]'`.")
  return chromium, chromedriver


def make_flags(folder: str) -> list[str]:
  """Of a Chromium whose profile is in a folder; root has no sandbox."""
  return [*_FLAGS, f'--user-data-dir={folder}/profile',
          *(['--no-sandbox'] if os.geteuid() == 0 else [])]


def _find(variable: str, *names: str) -> str | None:
  candidates = [os.environ[variable]] if os.environ.get(variable) else names
  return next(filter(None, map(shutil.which, candidates)), None)


class Browser:
  """A Chromium window of a fixed size.

  All its files lie in a temporary folder, removed by `close`. Where setpriv is
  (util-linux), driver and browser end when the thread that started them ends,
  a killed one too; the folder is then left behind.

  Args:
    width: of the page's viewport, in pixels.
    height: of the page's viewport, in pixels.

  Raises:
    MissingProgramError: when a program is missing.
    BrowserError: when the browser does not start, and from every method when
      it breaks.
  """

  def __init__(self, width: int, height: int):
    chromium, chromedriver = find_programs()
    self._folder = tempfile.TemporaryDirectory(
        prefix='step_jax_', ignore_cleanup_errors=True)
    self._service: Any = None
    self._driver: Any = None
    self._is_broken = False
    try:
      self._call(lambda: self._start(chromium, chromedriver))
      self._cdp('Emulation.setDeviceMetricsOverride', width=width,
                height=height, deviceScaleFactor=1, mobile=False)
    except BaseException:
      self.close()
      raise

  def _start(self, chromium: str, chromedriver: str) -> None:
    from selenium import webdriver
    from selenium.webdriver.chromium import remote_connection
    from selenium.webdriver.common import proxy
    from selenium.webdriver.remote import client_config

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.unhandled_prompt_behavior = 'accept'
    for flag in make_flags(self._folder.name):
      options.add_argument(flag)
    self._service = webdriver.ChromeService(
        executable_path=self._mortal(chromedriver),
        env={**os.environ, 'TMPDIR': self._socket_folder()})
    self._service.start()
    # Not `webdriver.Chrome`: that obeys proxy variables on the way to
    # localhost, and has no time limit of ours.
    direct = proxy.Proxy(raw={'proxyType': proxy.ProxyType.DIRECT})
    connection = remote_connection.ChromiumRemoteConnection(
        self._service.service_url, browser_name='chrome', vendor_prefix='goog',
        client_config=client_config.ClientConfig(
            self._service.service_url, proxy=direct,
            timeout=_COMMAND_TIMEOUT))
    self._driver = webdriver.Remote(connection, options=options)
    self._driver.set_page_load_timeout(_COMMAND_TIMEOUT)
    self._driver.set_script_timeout(_COMMAND_TIMEOUT)

  def _socket_folder(self) -> str:
    folder = self._folder.name
    return folder if len(folder.encode()) <= _LONGEST_TMPDIR else '/tmp'

  def _mortal(self, program: str) -> str:
    """Returns a script that runs a program until its parent ends."""
    setpriv = shutil.which('setpriv')
    if setpriv is None:
      return program
    script = pathlib.Path(self._folder.name) / 'chromedriver'
    script.write_text('#!/bin/sh\nexec {} --pdeathsig KILL {} "$@"\n'.format(
        shlex.quote(setpriv), shlex.quote(program)))
    script.chmod(0o700)
    return str(script)

  def open(self, url: str) -> None:
    """Opens a page and waits until it is loaded."""
    self._call(lambda: self._driver.get(url))

  def run(self, script: str, *arguments: Any) -> Any:
    """Returns what a script returns; a promise is awaited."""
    return self._call(lambda: self._driver.execute_script(script, *arguments))

  def click(self, x: float, y: float, *, button: str = 'left',
            count: int = 1) -> None:
    """Presses and releases a mouse button, for the `count`th time in a row."""
    for kind in ('mousePressed', 'mouseReleased'):
      self._mouse(kind, x, y, button=button, clickCount=count)

  def drag(self, start: tuple[float, float], end: tuple[float, float], *,
           num_moves: int) -> None:
    """Moves the mouse with its left button held, in `num_moves` equal parts."""
    self._mouse('mouseMoved', *start)
    self._mouse('mousePressed', *start, button='left', clickCount=1)
    for part in range(1, num_moves + 1):
      x, y = (a + (b - a) * part / num_moves
              for a, b in zip(start, end, strict=True))
      self._mouse('mouseMoved', x, y, button='left', buttons=1)
    self._mouse('mouseReleased', *end, button='left', clickCount=1)

  def turn_wheel(self, x: float, y: float, right: float, down: float) -> None:
    """Scrolls what lies under a point by pixels."""
    self._mouse('mouseWheel', x, y, deltaX=right, deltaY=down)
    self.run(_TWO_FRAMES)

  def replace_text(self, text: str) -> None:
    """Selects what the focused field holds and types `text` over it."""
    self.press([_CONTROL, 'a'], *text)

  def press(self, *chords: Sequence[str]) -> None:
    """Presses the keys of each chord in turn and releases them in reverse.

    Args:
      *chords: characters, or keys by WebDriver's private ones.
    """
    keys = []
    for chord in chords:
      keys += [('keyDown', key) for key in chord]
      keys += [('keyUp', key) for key in reversed(chord)]
    source = {'type': 'key', 'id': 'keyboard', 'actions': [
        {'type': kind, 'value': value} for kind, value in keys]}
    self._call(lambda: self._driver.execute('actions', {'actions': [source]}))

  def screenshot(self) -> bytes:
    """Returns a picture of the viewport as PNG."""
    return self._call(lambda: self._driver.get_screenshot_as_png())

  def close(self) -> None:
    """Ends browser and driver and removes the profile; may be called twice."""
    driver, self._driver = self._driver, None
    service, self._service = self._service, None
    try:
      if driver is not None and not self._is_broken:
        self._call(driver.quit)
    except BrowserError:
      pass  # the driver is killed below, and the browser ends with it
    finally:
      if service is not None:
        if self._is_broken and service.process is not None:
          service.process.kill()
          service.process.wait()
        service.stop()
      self._wait_for_exit()
      self._folder.cleanup()

  def _wait_for_exit(self) -> None:
    """Waits for all processes of the folder; kills those that stay."""
    give_up = time.monotonic() + _EXIT_TIMEOUT
    while pids := self._processes():
      if time.monotonic() > give_up:
        for pid in pids:
          with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
      time.sleep(0.02)

  def _processes(self) -> list[int]:
    """Those whose command line names the folder."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
      with contextlib.suppress(OSError):  # it ended while we looked
        if self._folder.name.encode() in path.read_bytes():
          found.append(int(path.parent.name))
    return found

  def _mouse(self, kind: str, x: float, y: float, **parameters: Any) -> None:
    self._cdp('Input.dispatchMouseEvent', type=kind, x=x, y=y, **parameters)

  def _cdp(self, method: str, **parameters: Any) -> None:
    self._call(lambda: self._driver.execute(
        'executeCdpCommand', {'cmd': method, 'params': parameters}))

  def _call(self, function: Callable[[], Any]) -> Any:
    from selenium.common import exceptions
    import urllib3

    try:
      return function()
    except (exceptions.WebDriverException, urllib3.exceptions.HTTPError,
            OSError) as error:
      self._is_broken = True
      reason = str(error).strip().splitlines() or [type(error).__name__]
      raise BrowserError(f'The browser failed: {reason[0]}') from error
