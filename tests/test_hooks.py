"""api/hooks.py: the Host that is asked for, and the ids that requests get."""

import random

import pytest

from api.hooks import REQUEST_ID, host_name, new_request_id


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:5000", "localhost"),
        ("[::1]:5000", "[::1]"),
        ("[::1]", "[::1]"),
        ("evil.example:80", "evil.example"),
        ("localhost:x", "localhost:x"),
        ("localhost@evil.example", "localhost@evil.example"),
        ("", ""),
    ],
)
def test_the_name_is_read_without_its_port(header, name):
    assert host_name(header) == name


def test_ids_do_not_repeat_even_where_somebody_seeds_the_shared_generator():
    ids = set()
    for _ in range(100):
        random.seed(1)
        ids.add(new_request_id())
    assert len(ids) == 100
    assert all(REQUEST_ID.fullmatch(one) for one in ids)
