"""Which menus are open, as far as the X server knows.

GTK 2, which pcmanfm still uses, never says that an item of an open menu is
showing, and leaves the item's place as it was when the menu is closed. But an
open menu is a window that no window manager manages.
"""
from Xlib import display
from Xlib import error
from Xlib import X

from step_jax.envs.osworld.desktop import cells


class Popups:
  """One connection to the display of the environment."""

  def __init__(self) -> None:
    self._display = display.Display()

  def list_boxes(self) -> list[cells.Box]:
    """Returns where the visible unmanaged windows are."""
    boxes = []
    for window in self._display.screen().root.query_tree().children:
      try:
        attributes = window.get_attributes()
        if attributes.override_redirect and (
            attributes.map_state == X.IsViewable):
          place = window.get_geometry()
          boxes.append((place.x, place.y, place.width, place.height))
      except error.XError:   # It has just gone.
        continue
    return boxes
