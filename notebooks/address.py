"""Writes the repository's address, `url` in setup.cfg, into the notebooks.

  python notebooks/address.py

Into the badge that opens a notebook in Colab, and the cell that installs what
it needs there.
"""

import configparser
import pathlib
import re

_FOLDER = pathlib.Path(__file__).resolve().parent
_PLACES = re.compile(
    r"(colab\.research\.google\.com/github|REPOSITORY = 'https://github\.com)"
    r"/[^/']+/[^/'\"]+")


def read() -> str:
  """OWNER/NAME."""
  setup = configparser.ConfigParser()
  setup.read(_FOLDER.parent / 'setup.cfg')
  return setup['metadata']['url'].removeprefix('https://github.com/')


def written(text: str) -> str:
  """A notebook with the address in its places."""
  return _PLACES.sub(rf'\1/{read()}', text)


if __name__ == '__main__':
  for path in _FOLDER.glob('*.ipynb'):
    path.write_text(written(path.read_text()))
