"""What ends a command in one sentence, instead of a traceback."""


class UserError(Exception):
  """A user's mistake; its message is one sentence that says what to do."""


class RunError(Exception):
  """A run that cannot go on; its message is one sentence."""
