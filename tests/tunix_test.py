"""A test of examples/tunix_step.py, where google-tunix 0.1.7 is installed."""
import numpy as np
import pytest

pytest.importorskip('tunix')  # it is in an environment of its own

from examples import tunix_step  # noqa: E402  (it imports tunix)


@pytest.mark.filterwarnings('ignore')  # of what it imports
def test_tunix_learns_with_step(tmp_path, monkeypatch):
  seeds, rows, records = [], [], []
  parent = tunix_step.grpo_learner.GRPOLearner
  generate, theirs = (one._generate_and_compute_advantage
                      for one in (tunix_step.StepLearner, parent))

  def spy(self, batch, *args):
    records.append(np.array(self.record))
    example = generate(self, batch, *args)
    rows.append((np.bincount(batch['task_id'], minlength=8),
                 np.asarray(example.advantages)))
    return example

  def spy_on_theirs(self, *args):  # it gives the seed away
    seeds.append(np.array(self.rl_cluster.cluster_config.rollout_config.seed))
    return theirs(self, *args)

  monkeypatch.setattr(
      tunix_step.StepLearner, '_generate_and_compute_advantage', spy)
  monkeypatch.setattr(
      parent, '_generate_and_compute_advantage', spy_on_theirs)
  learner = tunix_step.train(tmp_path, 30)
  record = np.asarray(learner.record)
  assert records[0].max() == 0 and record.min() > .8
  # A step of the optimiser for each round, of 64 completions always.
  assert learner.rl_cluster.actor_trainer.train_steps == len(rows) == 30
  counts = np.array([count for count, _ in rows])
  assert (counts.sum(1) == 64).all() and (counts[0] == 8).all()
  assert (counts % 2 == 0).all() and counts.max() > 8  # of the sampler
  assert len({seed.tobytes() for seed in seeds}) == 30
  for _, advantages in rows:
    assert ((0 <= advantages) & (advantages <= 1)).all()
  np.testing.assert_array_equal(
      tunix_step.make_learner(tmp_path, 1).record, record)
