"""AndroidWorld's screenshots in JSON, and what its client makes of answers."""

import json
import time

import httpx
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from step_jax.envs.androidworld import client as client_lib


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 100), most=st.sampled_from([1, 10, 100, 256]),
    separators=st.sampled_from([(',', ':'), (', ', ': '), (' ,\n', ':')]))
def test_a_screenshot_is_read_as_it_was_written(shape, seed, most, separators):
  pixels = np.random.default_rng(seed).integers(
      most, size=(*shape, 3), dtype=np.uint16).astype(np.uint8)
  body = json.dumps({'pixels': pixels.tolist()}, separators=separators)
  for data in (body.encode(), bytearray(body.encode() + b'\n')):
    decoded = client_lib.decode_screenshot(data)
    assert decoded.dtype == np.uint8 and decoded.shape == (*shape, 3)
    np.testing.assert_array_equal(decoded, pixels)


SOMETHING = 'expected {"pixels": ...}, got something else'
SHAPE = r'expected pixels of \[H\]\[W\]\[3\], got something else'
GAPS = 'expected pixels of numbers, got gaps'
RANGE = 'expected pixels of numbers from 0 to 255, got others'


@pytest.mark.parametrize('body, message', [
    ('', SOMETHING),
    ('{}', SOMETHING),
    ('[[[1,2,3]]]', SOMETHING),
    ('{"pixels":[[[1,2,3]]]', SOMETHING),
    ('{"image":[[[1,2,3]]]}', SOMETHING),
    ('{"pixels":null}', SHAPE),
    ('{"pixels":[]}', SHAPE),
    ('{"pixels":[[]]}', SHAPE),
    ('{"pixels":[[[]]]}', SHAPE),
    ('{"pixels":[[[1,2]]]}', SHAPE),
    ('{"pixels":[[[1,2,3,4]]]}', SHAPE),
    ('{"pixels":[[1,2,3]]}', SHAPE),
    ('{"pixels":[[[1,2,3]],[[1,2,3],[1,2,3]]]}', SHAPE),
    ('{"pixels":[[[1,2,3]]],"more":1}', SHAPE),
    ('{"pixels":[[[1,2,-3]]]}', SHAPE),
    ('{"pixels":[[[1,2,3.5]]]}', SHAPE),
    ('{"pixels":[[[1,2,1e2]]]}', SHAPE),
    ('{"pixels":[[[1,2,"3"]]]}', SHAPE),
    ('{"pixels":[[[1,2,null]]]}', SHAPE),
    ('{"pixels":[[[1,2,3]]]}}', SHAPE),
    ('{"pixels":[[[1,,3]]]}', GAPS),
    ('{"pixels":[[[,,]]]}', GAPS),
    ('{"pixels":[[[1,2,3 4]]]}', GAPS),
    ('{"pixels":[[[1,2,256]]]}', RANGE),
    ('{"pixels":[[[1,2,65537]]]}', RANGE),  # 1, if it were cut to 16 bits
    ('{"pixels":[[[1,2,99999999999999999999]]]}', RANGE),
    ('{"pixels":[[[1,2,003]]]}', RANGE),
])
def test_anything_else_is_an_error(body, message):
  with pytest.raises(ValueError, match=message):
    client_lib.decode_screenshot(body.encode())


@hypothesis.settings(max_examples=1000, deadline=None, derandomize=True)
@hypothesis.given(
    cuts=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    inserted=st.sampled_from(['', '[', ']', ',', '0', '255', ' ', '}', '-']))
def test_a_broken_screenshot_is_an_error_or_that_of_json(cuts, inserted):
  body = '{"pixels":[[[10,2,3],[4,50,6]],[[7,8,255],[1,0,9]]]}'
  first, last = (min(cut, len(body)) for cut in cuts)
  body = body[:first] + inserted + body[last:]
  try:
    decoded = client_lib.decode_screenshot(body.encode())
  except ValueError:
    return
  assert json.loads(body)['pixels'] == decoded.tolist()


def _phone(answer):
  return client_lib.Phone(
      'http://phone:5000', transport=httpx.MockTransport(answer))


@pytest.mark.parametrize('method, body, message', [
    ('goal', b'', '/task/goal failed: the answer is not JSON'),
    ('goal', b'[' * 100_000, '/task/goal failed: the answer is not JSON'),
    ('goal', b'[]', '/task/goal failed: the answer is no JSON object'),
    ('goal', b'{}', '/task/goal failed: the answer has no goal'),
    ('goal', b'{"goal": 1}', '/task/goal failed: the answer has no goal'),
    ('score', b'{}', '/task/score failed: the answer has no score'),
    ('score', b'{"score": "1"}', '/task/score failed: the answer has no score'),
    ('score', b'{"score": NaN}', '/task/score failed: the answer has no score'),
])
def test_answers_that_are_none_are_the_phones_failure(method, body, message):
  phone = _phone(lambda request: httpx.Response(200, content=body))
  with pytest.raises(client_lib.PhoneError) as caught:
    getattr(phone, method)('Task')
  assert str(caught.value) == f'http://phone:5000{message}'


@pytest.mark.parametrize('body', [b'{}', b'{"task_list": [1]}'])
def test_a_list_without_names_is_the_phones_failure(body):
  phone = _phone(lambda request: httpx.Response(200, content=body))
  with pytest.raises(client_lib.PhoneError, match='the answer has no names'):
    phone.task_list()


@pytest.mark.parametrize('score', [0, 0.5, 1, True])
def test_scores(score):
  phone = _phone(lambda request: httpx.Response(200, json={'score': score}))
  assert phone.score('Task') == float(score)


def test_a_status_is_told():
  phone = _phone(lambda request: httpx.Response(404, text='nobody'))
  with pytest.raises(client_lib.PhoneError, match="status 404: 'nobody'"):
    phone.check_health()


def test_an_answer_has_a_largest_size(monkeypatch):
  monkeypatch.setattr(client_lib, 'MAX_ANSWER', 10)
  phone = _phone(lambda request: httpx.Response(200, content=b'a' * 11))
  with pytest.raises(client_lib.PhoneError, match='more than 10 bytes'):
    phone.screenshot()


def test_an_answer_that_drips_has_to_end_in_time():
  def drip():
    while True:
      time.sleep(0.02)
      yield b'a'

  phone = client_lib.Phone(
      'http://phone:5000', step_timeout=0.1,
      transport=httpx.MockTransport(
          lambda request: httpx.Response(200, content=drip())))
  with pytest.raises(client_lib.PhoneError, match='no end after 0.1 s'):
    phone.screenshot()


@pytest.mark.parametrize('address', [
    'phone', 'ftp://phone', 'http://', 'http://a:b', ''])
def test_an_address_that_is_none_is_refused(address):
  with pytest.raises(ValueError, match="a phone's address such as"):
    client_lib.Phone(address)


@pytest.mark.parametrize('limits', [
    {'step_timeout': 0}, {'task_timeout': -1}])
def test_time_limits_are_positive(limits):
  with pytest.raises(ValueError, match='expected positive time limits'):
    client_lib.Phone('http://phone', **limits)


def test_long_texts_may_take_longer():
  limits = []

  def answer(request):
    limits.append(request.extensions['timeout']['read'])
    return httpx.Response(200)

  phone = _phone(answer)
  for text in ('', 'one', 'word ' * 100):
    phone.execute({'action_type': 'input_text', 'text': text})
  assert limits[1] == limits[0] + .5 and limits[2] == limits[0] + 100
