"""Ceph's gateway, as the tests use it: it serves, and refuses who has no key."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.object_stores.ceph import Store


def test_gateway_serves_and_refuses_who_has_no_key(ceph: Store) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{ceph.endpoint}/bucket", method="PUT"), timeout=30)
    assert refused.value.code == 403
    assert ceph.key and ceph.secret
