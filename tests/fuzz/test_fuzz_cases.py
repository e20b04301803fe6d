"""Bytes that readers once failed on, or may fail on, end in documented errors."""

import pytest
from readers import CASES, READERS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("reader", "content"), [(name, case) for name, cases in CASES.items() for case in cases]
)
def test_a_case_of_the_corpus(reader: str, content: bytes) -> None:
    READERS[reader](content)
