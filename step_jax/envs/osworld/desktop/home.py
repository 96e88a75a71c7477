"""The home directory that a desktop starts with.

Applications are set up not to ask, greet, animate or recover, so that a task
begins at its own first step and the same screen gives the same picture.
"""
import os
import shutil
from typing import Any

_FOLDERS = ('Desktop', 'Documents', 'Downloads', 'Music', 'Pictures', 'Public',
            'Templates', 'Videos')
_FILES = {
    '.config/user-dirs.dirs': ''.join(
        f'XDG_{variable}_DIR="$HOME/{folder}"\n' for variable, folder in (
            ('DESKTOP', 'Desktop'), ('DOCUMENTS', 'Documents'),
            ('DOWNLOAD', 'Downloads'), ('MUSIC', 'Music'),
            ('PICTURES', 'Pictures'), ('PUBLICSHARE', 'Public'),
            ('TEMPLATES', 'Templates'), ('VIDEOS', 'Videos'))),
    '.config/gtk-3.0/settings.ini': (
        '[Settings]\n'
        'gtk-enable-animations=0\n'
        'gtk-cursor-blink=0\n'
        'gtk-overlay-scrolling=0\n'),
    '.gtkrc-2.0': 'gtk-enable-animations=0\ngtk-cursor-blink=0\n',
    '.config/mimeapps.list': (
        '[Default Applications]\n'
        'inode/directory=pcmanfm.desktop\n'
        'text/plain=org.xfce.mousepad.desktop\n'
        'text/csv=libreoffice-calc.desktop\n'),
    '.config/vlc/vlcrc': (
        '[qt]\nqt-privacy-ask=0\n[core]\nmetadata-network-access=0\n'),
}
_OFFICE_FILE = '.config/libreoffice/4/user/registrymodifications.xcu'
_OFFICE = (   # path below org.openoffice, property, value
    ('Office.Common/Misc', 'FirstRun', 'false'),
    ('Office.Common/Misc', 'ShowTipOfTheDay', 'false'),
    ('Office.Common/Misc', 'CrashReport', 'false'),
    ('Office.Common/Misc', 'MacroRecorderMode', 'false'),
    ('Office.Common/Save/Document', 'WarnAlienFormat', 'false'),
    ('Office.Recovery/AutoSave', 'Enabled', 'false'),
    ('Office.Recovery/RecoveryInfo', 'Enabled', 'false'),
    ('Setup/Product', 'LastTimeGetInvolvedShown', '4102444800'),
    ('Setup/Product', 'LastTimeDonateShown', '4102444800'),
    ('Setup/Product', 'WhatsNew', 'false'),
    ('Setup/Product', 'WhatsNewDialog', 'false'),
    ('Setup/Product', 'ooSetupLastVersion', '100.0'),
    ('Office.UI.Infobar/Enabled', 'Donate', 'false'),
    ('Office.UI.Infobar/Enabled', 'GetInvolved', 'false'),
    ('Office.UI.Infobar/Enabled', 'WhatsNew', 'false'),
)


def make(folder: str) -> None:
  """Writes the home directory's first state to a folder that does not exist.

  Args:
    folder: where it goes.
  """
  for name in _FOLDERS:
    os.makedirs(os.path.join(folder, name))
  for name, text in (*_FILES.items(), (_OFFICE_FILE, _make_office_profile())):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
      file.write(text)


def remove(folder: str) -> None:
  """Removes a folder, whatever modes have been given to what is in it.

  Args:
    folder: it need not exist.
  """
  def permit(function: Any, path: str, _: Any) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
      os.chmod(path, 0o700)
      shutil.rmtree(path)
    else:
      function(path)
  if os.path.lexists(folder):
    shutil.rmtree(folder, onerror=permit)


def _make_office_profile() -> str:
  items = ''.join(
      f'<item oor:path="/org.openoffice.{path}"><prop oor:name="{name}" '
      f'oor:op="fuse"><value>{value}</value></prop></item>\n'
      for path, name, value in _OFFICE)
  return (
      '<?xml version="1.0" encoding="UTF-8"?>\n'
      '<oor:items xmlns:oor="http://openoffice.org/2001/registry" '
      'xmlns:xs="http://www.w3.org/2001/XMLSchema" '
      'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
      f'{items}</oor:items>\n')
