"""The roles by name."""

from __future__ import annotations

from diloco.simulation.roles.dripper import Dripper
from diloco.simulation.roles.equivocator import Equivocator
from diloco.simulation.roles.flapper import Flapper
from diloco.simulation.roles.liar import Liar
from diloco.simulation.roles.mute import Mute
from diloco.simulation.roles.role import Role
from diloco.simulation.roles.rubbish import Rubbish
from diloco.simulation.roles.sybil import Sybil

ROLES: dict[str, type[Role]] = {
    role.name: role for role in (Liar, Equivocator, Sybil, Flapper, Dripper, Rubbish, Mute)
}
