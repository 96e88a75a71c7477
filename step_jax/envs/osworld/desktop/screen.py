"""What the X server knows: the picture, the pointer and the windows.

A helper process serves this module (`helper.py`).
"""
from collections.abc import Callable, Iterator
import json
import struct
from typing import Any
import zlib

from Xlib import display
from Xlib import error
from Xlib import X
from Xlib.ext import xfixes   # noqa: F401  (registers itself)
from Xlib.ext import xtest
from Xlib.protocol import event

_MARGIN = 10   # pixels; in the very corner pyautogui stops for safety
_SECOND_LESS = 94   # the key between Shift and Z on European keyboards


def make_answer() -> Callable[..., bytes]:
  """Connects to the display; returns the function that answers."""
  screen = Screen()
  return lambda what, **arguments: getattr(screen, f'get_{what}')(**arguments)


class Screen:
  """One connection to the display of the environment."""

  def __init__(self) -> None:
    self._display = display.Display()
    self._root = self._display.screen().root
    self._display.xfixes_query_version()
    # pyautogui finds "<" there and then presses Shift, which gives ">".
    self._display.change_keyboard_mapping(_SECOND_LESS, [(X.NoSymbol,) * 4])
    self._keyboard = self._read_keyboard()

  def get_screenshot(self) -> bytes:
    """Returns the screen with the pointer as a PNG file."""
    size = self._root.get_geometry()
    image = self._root.get_image(
        0, 0, size.width, size.height, X.ZPixmap, 0xffffffff)
    pixels = bytearray(size.width * size.height * 3)
    for channel in range(3):   # X sends blue, green, red and nothing.
      pixels[channel::3] = image.data[2 - channel::4]
    self._draw_pointer(pixels, size.width, size.height)
    return _encode_png(pixels, size.width, size.height)

  def get_pointer(self) -> bytes:
    """Returns the pointer's place, [x, y]."""
    place = self._root.query_pointer()
    return json.dumps([place.root_x, place.root_y]).encode()

  def get_size(self) -> bytes:
    """Returns the screen's size, {width, height}."""
    size = self._root.get_geometry()
    return json.dumps({'width': size.width, 'height': size.height}).encode()

  def get_windows(self) -> bytes:
    """Returns the managed windows: {id, pid, title, class, width, height}."""
    return json.dumps(list(self._list_windows())).encode()

  def get_manager(self) -> bytes:
    """Returns whether a window manager runs."""
    return json.dumps(
        bool(self._read(self._root, '_NET_SUPPORTING_WM_CHECK'))).encode()

  def get_rest(self) -> bytes:
    """Releases keys and buttons, and puts the pointer out of the way."""
    if self._read_keyboard() != self._keyboard:   # xdotool, killed in a word
      self._display.change_keyboard_mapping(
          self._display.display.info.min_keycode, self._keyboard)
    for byte, keys in enumerate(self._display.query_keymap()):
      for bit in range(8):
        if keys >> bit & 1:
          xtest.fake_input(self._display, X.KeyRelease, byte * 8 + bit)
    for button in range(1, 6):
      xtest.fake_input(self._display, X.ButtonRelease, button)
    size = self._root.get_geometry()
    self._root.warp_pointer(size.width - _MARGIN, size.height - _MARGIN)
    self._display.sync()
    return b'true'

  def get_raised(self, window: int) -> bytes:
    """Asks the window manager to activate a window."""
    self._send(window, '_NET_ACTIVE_WINDOW')
    return b'true'

  def get_closed(self, window: int) -> bytes:
    """Asks the window manager to close a window."""
    self._send(window, '_NET_CLOSE_WINDOW')
    return b'true'

  def _read_keyboard(self) -> list[list[int]]:
    info = self._display.display.info
    return [list(symbols) for symbols in self._display.get_keyboard_mapping(
        info.min_keycode, info.max_keycode - info.min_keycode + 1)]

  def _send(self, window: int, message: str) -> None:
    self._root.send_event(
        event.ClientMessage(
            window=self._display.create_resource_object('window', window),
            client_type=self._display.intern_atom(message),
            data=(32, [0, 2, 0, 0, 0])),   # 2: as a pager asks
        event_mask=X.SubstructureRedirectMask | X.SubstructureNotifyMask)
    self._display.sync()

  def _list_windows(self) -> Iterator[dict[str, Any]]:
    for number in self._read(self._root, '_NET_CLIENT_LIST') or ():
      try:
        window = self._display.create_resource_object('window', number)
        geometry = window.get_geometry()
        title = self._read(window, '_NET_WM_NAME')
        if title is None:
          title = window.get_wm_name() or b''
        yield {
            'id': number,
            'pid': (self._read(window, '_NET_WM_PID') or [0])[0],
            'title': (title if isinstance(title, str)
                      else bytes(title).decode(errors='replace')),
            'class': list(window.get_wm_class() or ()),
            'width': geometry.width, 'height': geometry.height}
      except error.XError:   # It has just gone.
        continue

  def _read(self, window: Any, name: str) -> Any:
    value = window.get_full_property(
        self._display.intern_atom(name), X.AnyPropertyType)
    return None if value is None else value.value

  def _draw_pointer(
      self, pixels: bytearray, width: int, height: int) -> None:
    cursor = self._display.xfixes_get_cursor_image(self._root)
    for index, argb in enumerate(cursor.cursor_image):
      row, column = divmod(index, cursor.width)
      x = cursor.x - cursor.xhot + column
      y = cursor.y - cursor.yhot + row
      if argb and 0 <= x < width and 0 <= y < height:
        keep = 255 - (argb >> 24)   # The colours are multiplied already.
        at = (y * width + x) * 3
        for channel, shift in enumerate((16, 8, 0)):
          pixels[at + channel] = min(
              255, (argb >> shift & 255) + pixels[at + channel] * keep // 255)


def _encode_png(pixels: bytearray, width: int, height: int) -> bytes:
  """Returns a PNG file of RGB bytes, quickly rather than small."""
  stride = width * 3
  rows = bytearray(height * (stride + 1))   # each after its filter type, 0
  for row in range(height):
    start = row * (stride + 1) + 1
    rows[start:start + stride] = pixels[row * stride:(row + 1) * stride]
  chunks = [
      (b'IHDR', struct.pack('!2I5B', width, height, 8, 2, 0, 0, 0)),
      (b'IDAT', zlib.compress(rows, 1)), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
      struct.pack('!I', len(data)) + kind + data
      + struct.pack('!I', zlib.crc32(kind + data)) for kind, data in chunks)
