"""HTTP connections to the machines that environments act on."""

import httpx


def connect(address: str, *, name: str, token: str = '',
            transport: httpx.BaseTransport | None = None) -> httpx.Client:
  """Returns a client of a machine; nothing is sent yet.

  It goes through no proxy of the surroundings and follows no redirect: a token
  goes nowhere else. A connection is used once, since one that the server has
  closed meanwhile would look like a lost action.

  Args:
    address: such as 'http://127.0.0.1:5000'.
    name: of what is there, for errors, such as 'desktop'.
    token: sent as `Authorization: Bearer`, if not empty.
    transport: of httpx, for tests.

  Raises:
    ValueError: for an address that is none.
  """
  expected = (f"expected a {name}'s address such as 'http://127.0.0.1:5000', "
              f'got {address!r}')
  try:
    url = httpx.URL(address)
  except httpx.InvalidURL as error:
    raise ValueError(expected) from error
  if url.scheme not in ('http', 'https') or not url.host:
    raise ValueError(expected)
  return httpx.Client(
      base_url=address.rstrip('/'), transport=transport, trust_env=False,
      follow_redirects=False,
      limits=httpx.Limits(max_keepalive_connections=0),
      headers={'Authorization': f'Bearer {token}'} if token else {})
