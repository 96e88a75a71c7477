"""Slow oracle of Desk: pages as objects and words as strings.

Written from the dataclasses of `step_jax.envs.desk.layout` and the sentences
of the tasks, without the compiled tables.
"""

import numpy as np

from step_jax.envs import base
from step_jax.envs.desk import apps
from step_jax.envs.desk import goals
from step_jax.envs.desk import layout
from step_jax.envs.desk import tasks

_VARIABLES, _PAGES = apps.make_apps()
VARIABLES = {variable.name: variable for variable in _VARIABLES}
PAGES = {page.name: page for page in _PAGES}
GOALS = {goal.name: goal for goal in (
    *goals.feasible_goals(), *goals.infeasible_goals())}


def read_sentence(task, sentence, words):
  """What a task asks for, read as a person reads it.

  Args:
    task: its name.
    sentence: its instruction, a list of words.
    words: `{variable: initial word}`.

  Returns:
    `{variable: wanted word}`, and whether it can be done.
  """
  wanted, rest = {}, list(sentence)
  names = task.split('+')
  for number, name in enumerate(names):
    goal, item, typed = GOALS[name], None, []
    if number:
      assert rest.pop(0) == 'and'
    for expected in goal.text.split():
      word = rest.pop(0)
      if expected[0] == '@':
        item, = [i for i in range(apps.NUM_ITEMS)
                 if words[f'{expected[1:]}-{i}'] == word]
      elif expected in '$?':
        typed.append(word)
        assert word not in [
            held for variable, held in words.items() if 'typed' not in variable]
      else:
        assert word == expected
    for variable, word in goal.conditions:
      if item is not None:
        variable = f'{variable}-{item}'
      wanted[variable] = typed[int(word[1:])] if word[0] == '$' else word
  assert not rest
  return wanted, not any(
      name.startswith(('no-', 'missing-')) for name in names)


class Desktop:
  """One episode.

  Args:
    page: the first page.
    words: `{variable: initial word}`.
    sentence: the instruction, a list of words.
    wanted: `{variable: word}`.
    feasible: whether the task can be done.
    max_steps: T.
  """

  def __init__(self, page, words, sentence, wanted, feasible, max_steps):
    self.page, self.scrolled = PAGES[page], 0
    self.focus = self.page.focus
    self.drafts, self.saved = dict(words), dict(words)
    self.sentence, self.wanted, self.feasible = sentence, wanted, feasible
    self.max_steps, self.steps, self.done = max_steps, 0, False

  def visible(self):
    """The widgets in sight, from above."""
    room = self.page.window - len(self.page.pinned)
    start = min(self.scrolled * (room - 2), self._hidden())
    return (*self.page.pinned, *self.page.widgets[start:start + room])

  def step(self, verb, target, word):
    """Returns the reward; what is illegal does nothing."""
    if self.done:
      return 0.
    self.steps += 1
    before, shown = (self.page, self.scrolled), self.visible()
    widget = shown[target] if 0 <= target < len(shown) else None
    if verb == 'click' and widget:
      self._click(widget)
    elif verb == 'type' and widget and 0 <= word < len(self.sentence):
      if widget.edits and widget.edits == self.focus:
        self._change(self.focus, self.sentence[word])
    elif verb == 'scroll_up':
      self.scrolled = max(0, self.scrolled - 1)
    elif verb == 'scroll_down' and self._more_below():
      self.scrolled += 1
    elif verb == 'back' and self.page.parent:
      self._revert(self.page.reverts)
      self.page, self.scrolled = PAGES[self.page.parent], 0
    if (self.page, self.scrolled) != before:
      self.focus = self.page.focus
    self.done = verb in ('done', 'fail') or self.steps >= self.max_steps
    if verb == 'fail':
      return float(not self.feasible)
    return float(self.done and self.feasible and self._succeeded())

  def observation(self):
    """What is seen, as `simulator.observe` gives it."""
    shown, pinned = self.visible(), len(self.page.pinned)
    rows = {name: np.zeros((layout.WINDOW, *shape), dtype)
            for name, shape, dtype in (
                ('type', (), np.int32), ('text', (1,), np.int32),
                ('value', (1,), np.int32), ('flags', (4,), bool),
                ('box', (4,), np.float32))}
    for i, widget in enumerate(shown):
      text, value, flags = self._appearance(widget)
      rows['type'][i] = base.word_id(widget.kind)
      rows['text'][i] = base.word_id(text)
      rows['value'][i] = base.word_id(value)
      rows['flags'][i] = flags
      rows['box'][i] = (
          (i / pinned, 0, 1 / pinned, 1 / 13) if i < pinned
          else (.05, (1 + i - pinned) / 13, .9, 1 / 13))
    focused = rows['flags'][:, 0]
    target_mask = np.zeros((7, layout.WINDOW), bool)
    target_mask[0, :len(shown)] = True
    target_mask[1] = focused
    words = np.zeros(tasks.MAX_WORDS, np.int32)
    words[:len(self.sentence)] = [base.word_id(x) for x in self.sentence]
    return {f'element_{name}': x for name, x in rows.items()} | {
        'instruction': words, 'target_mask': target_mask,
        'verb_mask': np.array([
            True, focused.any(), self.scrolled > 0, self._more_below(),
            bool(self.page.parent), True, True])}

  def _appearance(self, widget):
    """Text, value and flags of a widget."""
    text = widget.text
    if text.startswith(layout.READ):
      text = self.saved[text.removeprefix(layout.READ)]
    value = self.drafts[widget.shows] if widget.shows else ''
    switched, state = widget.sets or (widget.toggles, 'on')
    variable = widget.shows or switched
    return text, value, (
        bool(widget.edits) and widget.edits == self.focus,
        bool(variable) and self.drafts[variable] != self.saved[variable],
        bool(switched) and self.drafts[switched] == state,
        bool(widget.edits))

  def _hidden(self):
    """How many widgets do not fit on the page."""
    room = self.page.window - len(self.page.pinned)
    return max(0, len(self.page.widgets) - room)

  def _more_below(self):
    room = self.page.window - len(self.page.pinned)
    return self.scrolled * (room - 2) < self._hidden()

  def _click(self, widget):
    if widget.sets:
      self._change(*widget.sets)
    if widget.toggles:
      self._change(widget.toggles, {'on': 'off', 'off': 'on'}[
          self.drafts[widget.toggles]])
    if widget.edits:
      self.focus = widget.edits
    if widget.saves:
      for name in self._members(widget.saves):
        self.saved[name] = self.drafts[name]
    self._revert(widget.reverts)
    if widget.opens:
      self.page, self.scrolled = PAGES[widget.opens], 0

  def _change(self, variable, word):
    self.drafts[variable] = word
    if not VARIABLES[variable].group:
      self.saved[variable] = word

  def _revert(self, group):
    if group:
      for name in self._members(group):
        self.drafts[name] = self.saved[name]

  def _members(self, group):
    return [name for name, x in VARIABLES.items() if x.group == group]

  def _succeeded(self):
    made = all(self.saved[name] == x for name, x in self.wanted.items())
    harmless = all(
        self.saved[name] == x.options[0] for name, x in VARIABLES.items()
        if x.guarded and name not in self.wanted)
    return made and harmless
