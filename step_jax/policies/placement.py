"""Where arrays lie on a mesh of devices: rules by name, and rows.

A mesh has the axes 'data' and 'model'. Rows are cut along 'data'; parameters,
and whatever is shaped and named like them (gradients, an optimiser's moments),
as the first rule says whose pattern is found in their path. Everything else
lies whole on every device. Without a mesh all of this is the identity.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

Spec = jax.sharding.PartitionSpec
Rules = tuple[tuple[str, Spec], ...]  # pattern of a path -> how it is cut


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh, and the rules of what is trained on it.

  Whatever the axes of the mesh are, such as the Explicit ones that
  `jax.make_mesh` gives, those of `placement.mesh` are Auto.
  """
  mesh: jax.sharding.Mesh | None = None
  rules: Rules = ()

  def __post_init__(self):
    if self.mesh is not None:
      object.__setattr__(self, 'mesh', jax.sharding.Mesh(
          self.mesh.devices, self.mesh.axis_names))

  @property
  def num_parts(self) -> int:
    """Into how many parts rows are cut."""
    return 1 if self.mesh is None else self.mesh.shape['data']

  def pad(self, num_rows: int) -> int:
    """The next number of rows that can be cut."""
    return -(-num_rows // self.num_parts) * self.num_parts

  def cut(self, x: jax.Array, *axes: Any) -> jax.Array:
    """Constrains an array inside jit, and its gradient with it.

    Args:
      x: an array.
      *axes: as of a PartitionSpec. An axis that does not divide its dimension
        is left out.
    """
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(
        x, self._sharding(Spec(*axes), x.shape))

  def rows(self, tree: Any) -> Any:
    """Cuts the first axis of every leaf, inside jit."""
    return jax.tree.map(lambda x: self.cut(x, 'data'), tree)

  def whole(self, tree: Any) -> Any:
    """Lays every leaf whole on every device, and so on every host."""
    return jax.tree.map(lambda x: self.cut(x), tree)

  def pin(self, tree: Any) -> Any:
    """Constrains every leaf to its rule, inside jit."""
    if self.mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

  def place(self, tree: Any) -> Any:
    """Moves every leaf to where its rule says, from wherever it lies."""
    if self.mesh is None:
      return tree
    return jax.device_put(tree, self.shardings(tree))

  def shardings(self, tree: Any) -> Any:
    """The sharding of every leaf, an array or its shape; None without mesh."""
    if self.mesh is None:
      return None

    def find(path, leaf):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      spec = next((spec for pattern, spec in self.rules
                   if re.search(pattern, name)), Spec())
      return self._sharding(spec, leaf.shape)
    return jax.tree_util.tree_map_with_path(find, tree)

  def structs(self, shapes: Any) -> Any:
    """The same shapes as `jax.ShapeDtypeStruct`s that say where they lie."""
    if self.mesh is None:
      return shapes
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding),
        shapes, self.shardings(shapes))

  def _sharding(
      self, spec: Spec, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
    """Leaves out what does not divide."""
    mesh = self.mesh
    assert mesh is not None

    def fit(axes, size):
      names = axes if isinstance(axes, tuple) else (axes,)
      parts = math.prod(mesh.shape[name] for name in names if name)
      return axes if size % parts == 0 else None

    return jax.sharding.NamedSharding(mesh, Spec(*map(fit, spec, shape)))


NOWHERE = Placement()


def make_mesh(
    axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh | None:
  """Builds a mesh.

  Args:
    axes: sizes of 'data' and 'model', one of which may be -1, for as many as
      there are.
    devices: by default all.

  Returns:
    The mesh; None if it is of one device.

  Raises:
    ValueError: if the sizes do not fit the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [axes['data'], axes['model']]
  given = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) > 1 or given < 1 or min(sizes) < -1:
    raise ValueError(
        f'expected sizes of at least 1, and -1 at most once, got {dict(axes)}')
  sizes = [len(devices) // given if size == -1 else size for size in sizes]
  if math.prod(sizes) > len(devices) or min(sizes) < 1 or (
      -1 in axes.values() and len(devices) % given):
    raise ValueError(
        f'expected a mesh for {len(devices)} devices, got {dict(axes)}')
  if math.prod(sizes) == 1:
    return None
  chosen = np.array(devices[:math.prod(sizes)]).reshape(sizes)
  return jax.sharding.Mesh(chosen, ('data', 'model'))
