"""The score as a mixture, learned online, of popularity (`prior`), item pairs (`covisitation`) and a two-tower (`tower`)."""

from feed.models.mixture.model import Mixture
from feed.models.mixture.parts import Parts

__all__ = ["Mixture", "Parts"]
