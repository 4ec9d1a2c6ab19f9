"""quickly_made: frozen dataclasses that are made by plain assignments."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from emq_compat.frozen import quickly_made

pytestmark = pytest.mark.unit


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A value with each kind of default."""

    to: str
    weight: int = 3
    labels: list[str] = field(default_factory=list)


def test_defaults() -> None:
    """What isn't given has its default, a new one of each factory."""
    one, other = Parcel(to="a"), Parcel(to="a")
    assert ("a", 3, []) == (one.to, one.weight, one.labels)
    assert one == other
    assert one.labels is not other.labels


def test_is_what_dataclass_makes() -> None:
    """It is an instance of its class, with the dataclass's repr, replace and pickle."""
    parcel = replace(Parcel(to="a", labels=["x"]), weight=4)
    assert type(parcel) is Parcel
    assert "Parcel(to='a', weight=4, labels=['x'])" == repr(parcel)
    assert parcel == pickle.loads(pickle.dumps(parcel))


def test_frozen() -> None:
    """It refuses assignments once it is made."""
    parcel = Parcel(to="a")
    with pytest.raises(FrozenInstanceError):
        parcel.weight = 5  # type: ignore[misc]
    assert 3 == parcel.weight


@pytest.mark.parametrize("wrong", [{}, {"to": "a", "weigth": 1}])
def test_arguments(wrong: dict[str, object]) -> None:
    """A missing argument and one that there isn't are TypeErrors that name it."""
    with pytest.raises(TypeError, match=r"'to'|weigth"):
        Parcel(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Parcel("a")  # type: ignore[misc]
