"""One MLflow run for one training run: parameters once, figures step by step, the same MLflow run after a resume.

MLflow takes 2–4 s to import and is imported inside the calls alone.
"""

from typing import Any

from ftlib.config.promote import RegistryConfig
from ftlib.registry.models import mlflow_client, open_experiment

_RUN_ID = "ftlib.run_id"
_BATCH = 100
"""Parameters in one call: MLflow's limit."""


class MlflowRun:
    """A run in an experiment, found again by ftlib's run id.

    Args:
        uri: as `registry.uri`: a folder, `sqlite:///FILE`, or the URL of a server.
        experiment: made when it is not there.
        run_id: ftlib's.
        params: logged when the run is made; values are cut to MLflow's limit.

    Raises:
        UserError: the address cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, run_id: str, params: dict[str, Any]) -> None:
        self._registry = RegistryConfig(uri=uri)
        with mlflow_client(self._registry, create=True) as client:
            from mlflow.entities import Param  # after the client has quietened MLflow

            place = open_experiment(client, self._registry, experiment)
            runs = client.search_runs([place], f"tags.`{_RUN_ID}` = '{run_id}'", max_results=1)
            if runs:
                self._id = runs[0].info.run_id
                client.update_run(self._id, status="RUNNING")
                return
            self._id = client.create_run(place, run_name=run_id, tags={_RUN_ID: run_id}).info.run_id
            every = [Param(key, str(value)[:500]) for key, value in params.items()]
            for start in range(0, len(every), _BATCH):
                client.log_batch(self._id, params=every[start : start + _BATCH])

    def last_step(self, name: str) -> int:
        """The last step that has a figure of this name; 0 for none."""
        with mlflow_client(self._registry) as client:
            return max((metric.step for metric in client.get_metric_history(self._id, name)), default=0)

    def log(self, figures: dict[str, float], step: int, time_ms: int) -> None:
        """Log figures of a step."""
        from mlflow.entities import Metric

        with mlflow_client(self._registry) as client:
            client.log_batch(self._id, metrics=[Metric(key, value, time_ms, step) for key, value in figures.items()])

    def close(self, status: str) -> None:
        """End the run; `status`: `FINISHED` or `FAILED`."""
        with mlflow_client(self._registry) as client:
            client.set_terminated(self._id, status)
