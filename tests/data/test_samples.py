import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.data.samples import (
    Sample,
    check_disjoint,
    sample_id,
    without_duplicates,
)
from ogs_env.errors import InputError


def test_id_is_the_documented_hash() -> None:
    expected = hashlib.sha256(b"a\x1fb").hexdigest()[:16]
    assert sample_id("a", "b") == Sample("a", "b", "any").id == expected


def test_ids_depend_on_where_prompt_ends() -> None:
    assert sample_id("ab", "c") != sample_id("a", "bc")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cd"))))
def test_without_duplicates_keeps_the_first(pairs: list[tuple[str, str]]) -> None:
    samples = [Sample(*pair, str(number)) for number, pair in enumerate(pairs)]
    unique = without_duplicates(samples)
    oracle: list[Sample] = []
    for sample in samples:
        if sample.id not in [other.id for other in oracle]:
            oracle.append(sample)
    assert unique == oracle


def test_check_disjoint_names_sample_and_roles() -> None:
    shared = Sample("Janet's ducks lay 16 eggs per day,\nshe eats three.", "9")
    other = Sample("Q", "A")
    check_disjoint({"pool": [other, other], "test": [shared]})
    with pytest.raises(InputError) as caught:
        check_disjoint({"pool": [other, shared], "dev": [], "test": [shared]})
    assert str(caught.value) == (
        f"the same sample (id {shared.id}, \"Janet's ducks lay 16 eggs per day, she "
        'e...") is in both pool and test; remove it from one'
    )
