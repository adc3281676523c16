"""The dialects Polylect speaks over HTTP: one row each."""

from rest_facade.dialects import apex, datafly, pulse, pulsora
from rest_facade.vocabulary import Dialect

DIALECTS: tuple[Dialect, ...] = (
    pulsora.PULSORA,
    pulse.PULSE,
    apex.APEX,
    datafly.DATAFLY,
)
