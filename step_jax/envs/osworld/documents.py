"""OSWorld's `compare_docx_files`: whether two documents have the same text."""

import io
import re


def compare_docx_files(result: bytes, expected: bytes, *,
                       ignore_blanks: bool = True, ignore_case: bool = False,
                       ignore_order: bool = False,
                       delete_empty_lines: bool = False) -> bool:
  """Returns whether the paragraphs of two .docx files are the same.

  Args:
    result: a file; one that cannot be read is another.
    expected: what it is compared with.
    ignore_blanks: any white space, ends of paragraphs too, is one space.
    ignore_case: 'A' is 'a'.
    ignore_order: paragraphs are sorted.
    delete_empty_lines: empty paragraphs do not count.

  Raises:
    Exception: as of docx, where the expected file cannot be read.
  """
  import docx

  documents = []
  for content in (expected, result):
    try:
      document = docx.Document(io.BytesIO(content))
      texts = [paragraph.text for paragraph in document.paragraphs]
    except Exception:  # whatever is wrong with a file that the agent made
      if content is expected:
        raise
      return False
    if ignore_order:
      texts.sort()
    if delete_empty_lines:
      texts = [text for text in texts if text.strip()]
    if ignore_blanks:
      texts = [re.sub(r'\s+', ' ', '\n'.join(texts)).strip()]
    if ignore_case:
      texts = [text.lower() for text in texts]
    documents.append(texts)
  return documents[0] == documents[1]
