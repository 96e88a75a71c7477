"""Worlds: `gymnasium.Env`s that show elements and take token actions.

`import step_jax.envs` makes them known to gymnasium, as
`gymnasium.make('step_jax/Desk-v0')`; arguments are those of the classes.
"""

import gymnasium

for _id, _path in (
    ('Desk', 'desk.env:DeskEnv'), ('MiniWob', 'miniwob.env:MiniWobEnv'),
    ('OSWorld', 'osworld.env:OSWorldEnv'),
    ('AndroidWorld', 'androidworld.env:AndroidWorldEnv')):
  gymnasium.register(
      f'step_jax/{_id}-v0', entry_point=f'step_jax.envs.{_path}')
