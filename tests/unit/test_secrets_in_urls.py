"""No configuration takes a password in a URL, wherever in it; what is refused stands in no message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.base import holds_secret
from ftlib.config.erase import EraseConfig
from ftlib.config.loader import load_config
from ftlib.config.prepare import PrepareConfig
from ftlib.config.promote import PromoteConfig
from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError

WITH = [
    "postgresql://u:hushhush@h/d",
    "postgresql://u@h/d?password=hushhush",
    "postgresql://h/d?user=u&PASSWORD=hushhush",
    "mysql+pymysql://u@h/d?passwd=hushhush",
    "mysql+mysqldb://h/d?charset=utf8&passwd=hushhush#x",
    "postgresql://u@h/d?sslpassword=hushhush",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BUID%3Du%3BPWD%3Dhushhush",
    "mssql+pyodbc:///?odbc_connect=UID%253Du%253BPwd%253D%2Bhushhush",
    "snowflake://u@a/d?token=hushhush",
    "s3://KEY:hushhush@bucket/path",
    "https://u:hushhush@mlflow.example.org",
    "abfs://c@a.dfs.core.windows.net/x?sig=hushhush",
    "https://host/x?X-Amz-Signature=hushhush",
    "oracle://u@h/?wallet_password=hushhush",
    "trino://h/c?access_token=hushhush",
]
WITHOUT = [
    "postgresql://u@h/d",
    "postgresql+psycopg://u@h:5432/d?sslmode=require&passfile=/home/u/.pgpass",
    "sqlite:////data/tickets.db",
    "s3://bucket/path with ? and password=x".replace("?", "!"),
    "/data/what?password=x/file",
    "https://mlflow.example.org:5000/base",
    "postgresql://u@h/d?application_name=token_counter&tokenizer=x",
    "mysql+pymysql://u@h/d?password=",
    "embedded:smollm2-135m",
]
PREPARE = ["input.sql=SELECT 1 ORDER BY 1", "output.path=o"]
TRAIN = ["data.path=d", "model.source=m", "output.path=o"]
KEYS = [
    (PrepareConfig, PREPARE, "input.connection", "FTLIB_INPUT_DB_PASSWORD_FILE"),
    (PrepareConfig, ["input.paths=[a]"], "output.path", "AWS_SECRET_ACCESS_KEY"),
    (TrainConfig, TRAIN, "track.mlflow_uri", "MLFLOW_TRACKING_PASSWORD"),
    (TrainConfig, ["data.path=d", "output.path=o"], "model.source", "HF_TOKEN"),
    (SweepConfig, [f"train.{word}" for word in TRAIN], "search.storage", "FTLIB_DB_PASSWORD_FILE"),
    (PromoteConfig, ["run.path=r", "evaluation.path=e"], "registry.uri", "MLFLOW_TRACKING_PASSWORD"),
    (EraseConfig, ["subject=x", "search.paths=[a]"], "registry.uri", "MLFLOW_TRACKING_PASSWORD"),
]


@pytest.mark.parametrize("url", WITH)
@pytest.mark.parametrize(
    ("job", "words", "key", "place"), KEYS, ids=[f"{job.__name__}-{key}" for job, _, key, _ in KEYS]
)
def test_a_password_is_refused_with_where_it_belongs_and_never_shown(url, job, words, key, place):
    with pytest.raises(UserError, match=f"{key}: take the password out of the URL and put it into .*{place}") as caught:
        load_config(job, None, [*words, f"{key}={url}"])
    assert "hushhush" not in str(caught.value)


def test_a_list_of_paths_is_looked_at_too():
    with pytest.raises(UserError, match=r"input\.paths\.1: take the password") as caught:
        load_config(PrepareConfig, None, ["input.paths=[a, 's3://k:hushhush@b/c']", "output.path=o"])
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_addresses_without_one_are_taken(url):
    assert not holds_secret(url)


def test_a_connection_of_another_type_is_not_shown():
    with pytest.raises(UserError) as caught:
        load_config(
            PrepareConfig, '{"input": {"sql": "x", "connection": {"password": "hushhush"}}, "output": {"path": "o"}}'
        )
    assert "hushhush" not in str(caught.value)


@settings(deadline=None)
@given(st.text())
def test_any_text_has_an_answer(text):
    assert holds_secret("postgresql://u@h/d?password=x" + text)
    assert holds_secret(f"https://u:x{text.replace('/', '').replace('?', '').replace('#', '')}@h")
    holds_secret(text)
