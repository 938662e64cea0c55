import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.triangle import pack, triangle_size, triangle_width, unpack, unpack_lower


@given(d=st.integers(1, 40), wide=st.booleans())
@settings(deadline=None)
def test_packing_a_symmetric_matrix_loses_nothing(d, wide):
    A = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64 if wide else torch.float32)
    S = A + A.T
    packed = pack(S)
    assert len(packed) == d * (d + 1) // 2
    assert torch.equal(unpack(packed), S)
    assert torch.equal(unpack_lower(packed), S.tril())


def test_what_lies_above_the_diagonal_is_not_looked_at():
    S = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    assert unpack(pack(S)).tolist() == [[1.0, 2.0], [2.0, 3.0]]


def test_sizes_and_widths_belong_together():
    assert [triangle_width(triangle_size(d)) for d in (1, 2, 3, 14336)] == [1, 2, 3, 14336]
    with pytest.raises(ValueError, match="got 4"):
        triangle_width(4)
