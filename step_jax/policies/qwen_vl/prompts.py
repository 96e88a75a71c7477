"""Prompts as token ids: Qwen's chat template, and what UI-TARS is asked.

A step's prompt carries the last three responses and no past screenshots
(t_r = 3, t_I = 0). Past responses are the ids that were sampled.
"""

from collections.abc import Iterable, Sequence
import itertools
import re

import tokenizers

from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import versions

Piece = str | Sequence[int]  # plain text, or ids
HISTORY_LENGTH = 3  # t_r

# DPO's on a desktop.
_DESKTOP = r"""You are a GUI agent. You are given a task and your action history, with screenshots. You need to perform the next action to complete the task. 

## Output Format
```
Thought: ...
Action: ...
```

## Action Space

click(start_box='<|box_start|>(x1,y1)<|box_end|>')
left_double(start_box='<|box_start|>(x1,y1)<|box_end|>')
right_single(start_box='<|box_start|>(x1,y1)<|box_end|>')
drag(start_box='<|box_start|>(x1,y1)<|box_end|>', end_box='<|box_start|>(x3,y3)<|box_end|>')
hotkey(key='')
type(content='') #If you want to submit your input, use "\n" at the end of `content`.
scroll(start_box='<|box_start|>(x1,y1)<|box_end|>', direction='down or up or right or left')
wait() #Sleep for 5s and take a screenshot to check for any changes.
finished()
call_user() # Submit the task and call the user when the task is unsolvable, or when you need the user's help.


## Note
- Use English in `Thought` part.
- Summarize your next action (with its target element) in one sentence in `Thought` part.

## User Instruction
"""  # noqa: E501, W291

# 1.5's on a phone.
_MOBILE = r"""You are a GUI agent. You are given a task and your action history, with screenshots. You need to perform the next action to complete the task. 
## Output Format
```
Thought: ...
Action: ...
```
## Action Space

click(start_box='<|box_start|>(x1,y1)<|box_end|>')
long_press(start_box='<|box_start|>(x1,y1)<|box_end|>')
type(content='') #If you want to submit your input, use "\n" at the end of `content`.
scroll(start_box='<|box_start|>(x1,y1)<|box_end|>', direction='down or up or right or left')
open_app(app_name='')
drag(start_box='<|box_start|>(x1,y1)<|box_end|>', end_box='<|box_start|>(x3,y3)<|box_end|>')
press_home()
press_back()
finished(content='xxx') # Use escape characters \', \", and \n in content part to ensure we can parse the content in normal python string format.


## Note
- Use English in `Thought` part.
- Write a small plan and finally summarize your next action (with its target element) in one sentence in `Thought` part.

## User Instruction
"""  # noqa: E501, W291
_DPO_PHONE_CALLS = """click(start_box='<|box_start|>(x1,y1)<|box_end|>')
long_press(start_box='<|box_start|>(x1,y1)<|box_end|>', time='')
type(content='')
scroll(start_box='<|box_start|>(x1,y1)<|box_end|>', end_box='<|box_start|>(x3,y3)<|box_end|>')
press_home()
press_back()
finished(content='') # Ends the task, solved or not.
"""  # noqa: E501


def _before(text: str, sign: str) -> str:
  return text[:text.index(sign)]


def _since(text: str, sign: str) -> str:
  return text[text.index(sign):]


# What each version of UI-TARS was trained on, by platform.
UI_TARS = {
    'ui_tars_dpo': {
        'desktop': _DESKTOP,
        'mobile': _before(_DESKTOP, '\nclick(') + _DPO_PHONE_CALLS + _since(
            _MOBILE, '\n\n## Note')},
    'ui_tars_1_5': {
        'desktop': _before(_DESKTOP, 'finished(') + _since(
            _MOBILE, 'finished('),
        'mobile': _MOBILE}}


def chat(
    tokenizer: tokenizers.Tokenizer,
    messages: Iterable[tuple[str, Sequence[Piece]]],
) -> list[int]:
  """The chat template of Qwen2-VL, up to where the assistant answers.

  Args:
    tokenizer: see `tokenizer.load`.
    messages: `(role, pieces)`; a system message is put in front if the first
      is none.

  Returns:
    The ids of the prompt.
  """
  messages = list(messages)
  if not messages or messages[0][0] != 'system':
    messages.insert(0, ('system', [versions.SYSTEM]))
  pieces: list[Piece] = []
  for role, content in messages:
    pieces += [
        *special(tokenizer, f'<|im_start|>{role}\n'), *content,
        *special(tokenizer, '<|im_end|>\n')]
  pieces += special(tokenizer, '<|im_start|>assistant\n')
  return _encode(tokenizer, pieces)


def image(tokenizer: tokenizers.Tokenizer, num_tokens: int) -> list[int]:
  """The place of an image in a message."""
  start, pad, end = (
      tokenizer_lib.special_id(tokenizer, token) for token in (
          tokenizer_lib.VISION_START, tokenizer_lib.IMAGE,
          tokenizer_lib.VISION_END))
  return [start, *[pad] * num_tokens, end]


def special(tokenizer: tokenizers.Tokenizer, text: str) -> list[Piece]:
  """Pieces of a text of our own, in which special tokens count as such."""
  pieces: list[Piece] = []
  for part in re.split(r'(<\|\w+\|>)', text):
    if part in tokenizer_lib.SPECIAL:
      pieces.append([tokenizer_lib.special_id(tokenizer, part)])
    elif part:
      pieces.append(part)
  return pieces


def response(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
  """The ids of a response of our own, such as a demonstration."""
  return _encode(tokenizer, special(tokenizer, text))


def ui_tars(
    tokenizer: tokenizers.Tokenizer,
    instruction: str,
    past_responses: Sequence[Sequence[int]],
    *,
    num_image_tokens: int,
    prompt: str = UI_TARS['ui_tars_dpo']['desktop'],
) -> list[int]:
  """What the model reads at one step.

  Args:
    tokenizer: see `tokenizer.load`.
    instruction: of the task, plain text.
    past_responses: sampled ids, oldest first; the last three count.
    num_image_tokens: of the screenshot, see `images.num_tokens`.
    prompt: what stands before the instruction.

  Returns:
    The ids of the prompt.
  """
  messages: list[tuple[str, Sequence[Piece]]] = [
      ('user', [*special(tokenizer, prompt), instruction])]
  messages += [
      ('assistant', [_without_control(tokenizer, response)])
      for response in past_responses[-HISTORY_LENGTH:]]
  messages.append(('user', [image(tokenizer, num_image_tokens)]))
  return chat(tokenizer, messages)


def _without_control(
    tokenizer: tokenizers.Tokenizer, ids: Sequence[int]) -> list[int]:
  """Leaves out tokens that would end the turn or stand for an image."""
  kept = {tokenizer_lib.BOX_START, tokenizer_lib.BOX_END}
  control = {
      tokenizer_lib.special_id(tokenizer, token)
      for token in tokenizer_lib.SPECIAL if token not in kept}
  return [int(token) for token in ids if int(token) not in control]


def _encode(
    tokenizer: tokenizers.Tokenizer, pieces: Iterable[Piece]) -> list[int]:
  """Texts that follow each other are one text to the tokenizer."""
  ids: list[int] = []
  for is_text, group in itertools.groupby(
      pieces, lambda piece: isinstance(piece, str)):
    if is_text:
      ids += tokenizer_lib.encode(tokenizer, ''.join(map(str, group)))
    else:
      ids += [int(token) for piece in group for token in piece]
  return ids
