"""How the tests check types: with beartype, an int passing for a float and both for a complex number."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
