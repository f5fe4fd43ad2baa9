"""Settings by environment variable (`FEED_...`) or `.env`; frozen, checked, unknown names refused. See docs/settings.md."""

import os
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from feed import events, kinds
from feed.address import Broker, Mechanism, Security, check_redis, check_servers, masked
from feed.errors import BadSetting
from feed.objective import TASKS, Objective
from feed.repeats import Repeats

PREFIX = "FEED_"
DAY = 86_400.0
FUTURE_SECONDS = 300.0
LATE_SECONDS = 5.0  # a feed that has not known for so long what its user did is late, and whoever sees it says so
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseSettings):
    """Everything that differs between machines; each process reads it once, in its own `main`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", frozen=True, extra="ignore", protected_namespaces=(), hide_input_in_errors=True
    )

    kafka: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port, comma-separated")
    kafka_security: Security = Field("PLAINTEXT", description="how Kafka is spoken to: SSL is TLS, SASL a user and a password")
    kafka_user: str = Field("", description="user, with SASL_PLAINTEXT and SASL_SSL")
    kafka_password: SecretStr = Field(SecretStr(""), description="password, with SASL_PLAINTEXT and SASL_SSL")
    kafka_mechanism: Mechanism = Field("PLAIN", description="how the password is given")
    kafka_ca: str = Field(
        "", description="file (PEM) of the authorities that Kafka's certificates are checked by; empty: the system's"
    )
    redis: str = Field("redis://127.0.0.1:6379/0", description="Redis URL", repr=False)  # it may hold a password
    registry: Path = Field(Path("var/registry"), description="folder of the model registry")
    partitions: int = Field(
        8, ge=1, le=1000, description="partitions of interactions, users and feature-updates when they are created"
    )
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: coloured on a terminal, else JSON")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    session_seconds: float = Field(6.0, ge=1, le=300, description="Kafka group session of the stream processors")
    future_seconds: float = Field(
        FUTURE_SECONDS, ge=0, le=365 * DAY, description="how far ahead of the wall clock an event's time may be"
    )
    attribution_seconds: float = Field(
        1800.0,
        gt=0,
        le=30 * DAY,
        description="event time within which an engagement belongs to the impression that showed its item",
    )
    idle_seconds: float = Field(
        1800.0,
        gt=0,
        le=365 * DAY,
        description="wall clock after which the windows of a partition close in which nothing is left to read",
    )
    examples_days: int = Field(
        30, ge=1, le=36_500, description="how long training-examples are kept; used when the topic is created"
    )
    snapshot_seconds: float = Field(15.0, gt=0, le=DAY, description="the learner publishes what it has learned this often")
    trial_requests: int = Field(
        20_000, ge=100, le=1_000_000_000, description="requests with evidence after which a trial without a verdict is given up"
    )
    feed_size: int = Field(50, ge=1, le=500, description="items in a feed")
    popular_share: Share = Field(0.05, description="share of users whose feed is the most popular items (arm `popular`)")
    random_share: Share = Field(0.05, description="share of users whose feed is drawn at random (arm `random`)")
    explore_every: int = Field(
        10, ge=0, le=500, description="in the learned arm one slot of this many is drawn at random; 0: none"
    )
    objective: str = Field(
        "", description="what the learned arm is ranked for: a weight a task (`click=1 hide=-10`); empty: the logit"
    )
    kinds: str = Field(
        "", description="kinds of engagement beside the six of all (`purchase=positive,weight=3,consumes;skip=negative`)"
    )
    popularity_correction: float = Field(
        0.0, ge=0, le=10, description="how much popularity is taken off a candidate's value: this many times its logarithm"
    )
    repeats: str = Field(
        "", description="when an item may be shown again to who took it (`24h`, `groceries=3d,music=0`); empty: by the version"
    )
    # with this salt and the shares above, user 42 of the README is in the learned arm (tests/ranking/test_arms.py)
    arm_salt: str = Field("feedloop", description="changes which users are in which arm")
    seed_data: str = Field(
        "simulated", description="what `seed` fills an empty system with: `simulated`, `none`, or a folder in the data format"
    )
    seed_users: int = Field(1000, ge=1, le=10_000_000, description="users of the simulated world")
    seed_items: int = Field(5000, ge=1, le=10_000_000, description="items of the simulated world")
    seed_interactions: int = Field(50_000, ge=1, le=1_000_000_000, description="engagements in its history")
    world_seed: int = Field(0, ge=0, le=2**32 - 1, description="same seed, same world")
    server_host: str = Field("127.0.0.1", description="address the model server listens on")
    server_port: int = Field(8000, ge=1, le=65535)

    @property
    def broker(self) -> Broker:
        """Where Kafka is and how to sign in there."""
        return Broker(
            self.kafka, self.kafka_security, self.kafka_user, self.kafka_password, self.kafka_mechanism, self.kafka_ca
        )  # fmt: skip

    @field_validator("kafka")
    @classmethod
    def _servers_can_be(cls, text: str) -> str:
        return check_servers(text)

    @field_validator("redis")
    @classmethod
    def _redis_can_be(cls, text: str) -> str:
        return check_redis(text)

    @model_validator(mode="after")
    def _credentials_fit(self) -> "Settings":
        broker = self.broker
        if broker.authenticated and not (broker.user and broker.password.get_secret_value()):
            raise ValueError(
                f"FEED_KAFKA_SECURITY={broker.security} signs in: set FEED_KAFKA_USER and FEED_KAFKA_PASSWORD, or set it to "
                f"{'SSL' if broker.encrypted else 'PLAINTEXT'}"
            )
        if not broker.authenticated and (broker.user or broker.password.get_secret_value()):
            raise ValueError(
                f"FEED_KAFKA_USER and FEED_KAFKA_PASSWORD are given to nobody with FEED_KAFKA_SECURITY={broker.security}: set "
                "that to SASL_SSL (or SASL_PLAINTEXT)"
            )
        if broker.ca and not broker.encrypted:
            raise ValueError(
                f"FEED_KAFKA_CA is not used with FEED_KAFKA_SECURITY={broker.security}: set that to SSL or SASL_SSL"
            )
        broker.tls()
        return self

    @field_validator("kinds")
    @classmethod
    def _kinds_fit(cls, text: str) -> str:
        kinds.parse(text)
        return text

    @field_validator("repeats")
    @classmethod
    def _rule_fits(cls, text: str) -> str:
        if text.strip():
            Repeats.parse(text)
        return text

    @model_validator(mode="after")
    def _table_fits(self) -> "Settings":
        Objective.parse(self.objective, (*TASKS, *(one.name for one in kinds.parse(self.kinds))))
        return self

    @model_validator(mode="after")
    def _arms_fit(self) -> "Settings":
        if self.popular_share + self.random_share > 1:
            raise ValueError(
                f"FEED_POPULAR_SHARE={self.popular_share} and FEED_RANDOM_SHARE={self.random_share} exceed 1 together"
            )
        return self


def load() -> Settings:
    """The settings of this process, which has the kinds of events that they name from now on.

    Raises `BadSetting` naming each unknown or impossible one.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    if unknown := sorted(name for name in given if name.startswith(PREFIX) and name not in known):
        raise BadSetting(f"unknown setting {', '.join(unknown)}; docs/settings.md lists them: {', '.join(sorted(known))}")
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [
            f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}={_printable(e['input'])}: {e['msg']}"
            if e["loc"]
            else str(e["ctx"]["error"])
            for e in error.errors()
        ]
        raise BadSetting("impossible setting: " + "; ".join(lines)) from None  # pydantic's error holds all of them
    events.adopt(kinds.parse(settings.kinds))
    return settings


def _printable(given: object) -> str:
    return repr(masked(given) if isinstance(given, str) else given)
