"""The one door into peft's registry of methods.

peft takes only names that its `PeftType` enumeration lists. `register` adds the member where it is missing and then
goes through peft's own `register_peft_method`, so that all of peft's verbs know the method. A peft that lists the
name, or opens the enumeration, goes through the same call.
"""

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType


def peft_type(name: str) -> PeftType:
    """The member of peft's enumeration for `name` (lower case), added when peft does not list it."""
    upper = name.upper()
    if upper not in PeftType.__members__:
        member = str.__new__(PeftType, upper)
        member._name_ = upper
        member._value_ = upper
        PeftType._member_map_[upper] = member
        PeftType._member_names_.append(upper)
        PeftType._value2member_map_[upper] = member
        type.__setattr__(PeftType, upper, member)
    return PeftType.__members__[upper]


def register(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Makes the tuner known to peft under `name`; a second call with the same classes changes nothing.

    Raises ValueError where another class holds the name.
    """
    member = peft_type(name)
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if known is config:
        return
    if known is not None:
        raise ValueError(f"peft already knows a method called {name!r}: {known.__module__}.{known.__name__}.")
    register_peft_method(name=name, config_cls=config, model_cls=model, prefix=model.prefix)
