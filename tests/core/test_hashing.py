import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.hashing import canonical_json, new_ulid, sha256_file, sha256_json, sha256_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_file_is_hashed_as_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_text_is_hashed_as_utf8() -> None:
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_text("Grüße") == hashlib.sha256("Grüße".encode()).hexdigest()


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'


@given(st.dictionaries(st.text(), JSON, max_size=6), st.randoms())
def test_hash_does_not_know_the_order_of_keys(value: dict[str, object], random: object) -> None:
    keys = list(value)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert sha256_json({key: value[key] for key in keys}) == sha256_json(value)


def test_hash_knows_the_order_of_a_list() -> None:
    assert sha256_json([1, 2]) != sha256_json([2, 1])


def test_no_json_for_what_is_not_a_number() -> None:
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


def test_run_ids_are_unique_and_sort_by_time() -> None:
    first = [new_ulid() for _ in range(1000)]
    time.sleep(0.003)
    later = new_ulid()
    assert len(set(first)) == 1000
    assert max(first) < later
    assert all(len(ulid) == 26 and ulid[0] <= "7" for ulid in first)
    assert set("".join(first)) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
