"""One run: the loop over tasks."""

from __future__ import annotations

import hashlib
import os
import time
import typing
import warnings

import keras
import tensorflow as tf

from keras_plasticity import checkpoint, run_directory, surgery
from keras_plasticity.callbacks.plasticity_alarm import PlasticityAlarm
from keras_plasticity.hooks import StepHooks, steps_per_call
from keras_plasticity.losses import DecodedMeanSquaredError
from keras_plasticity.progress import Progress
from keras_plasticity.streams import Stream
from keras_plasticity.training import NonFiniteLossError, Training
from keras_plasticity.writers import EventWriter

__all__ = ["NonFiniteLossError", "run"]


def run(
    stream: Stream,
    model: keras.Model | typing.Callable[..., keras.Model],
    optimizer: keras.optimizers.Optimizer | str,
    callbacks: typing.Sequence[keras.callbacks.Callback] = (),
    *,
    run_dir: os.PathLike | str,
    loss=None,
    seed: int = 0,
    method: str = "",
    benchmark: str = "",
    fused_steps: int | None = None,
    jit_compile: bool = True,
    checkpoint_seconds: float = 30.0,
    evaluate_earlier: bool = False,
    progress: bool = True,
    config: str | typing.Callable[[], str] | None = None,
) -> list[dict]:
    """Trains one model on one task after another, by one `model.fit` per task.

    Writes `metrics.jsonl` (a row per task), TensorBoard event files, `config.json`,
    `run.json` (names, seeds, versions, git commit), `operative_config.gin` when given,
    and checkpoints to `run_dir`. Started again with the same arguments, a run that was
    killed goes on and ends with the same rows; a finished one returns its rows.

    A callback may define `on_task_begin(task, model)` and `on_task_end(task, model)`,
    called once per task, also when a task is resumed in its middle. State that must
    survive a resume stands in the callback's `variables`.

    Example:

    ```python
    source = kp.streams.from_tfds("kp_digits")
    stream = kp.streams.make(source, num_tasks=40, epochs=40,
                             transforms=[kp.streams.ResetLabels()])
    rows = kp.experiment.run(stream, kp.models.mlp, keras.optimizers.Adam(1e-3),
                             run_dir="runs/plain/seed_0")
    ```

    Args:
        stream: `Stream`, the tasks.
        model: `keras.Model` with one input and one output, or a function
            `model(input_shape, num_outputs)` that builds one, with one output per class or
            target dimension, or `loss.bins` outputs; the function is called with Python's
            and NumPy's generators seeded by `seed`.
        optimizer: Keras optimizer or its name; the model is compiled with it.
        callbacks: Keras callbacks. Those that override epoch or batch methods cut the
            fused steps there, with a warning that names the cost.
        run_dir: directory of this run alone, made if need be.
        loss: Keras loss. Default: cross-entropy on logits for class labels, mean
            squared error for regression targets. With `kp.losses.TwoHot` and `HLGauss`
            the network has `bins` outputs.
        seed: int, of what is random in building and training the model. The stream
            has a seed of its own, and a model that is given built has its weights.
            Default 0.
        method: str, name of the method, for tables.
        benchmark: str, name of the benchmark, for tables.
        fused_steps: int, optimizer updates per call; 1 is the unfused run. Default: by
            the network's size, see `hooks.steps_per_call`.
        jit_compile: bool, whether XLA compiles the step. Default True.
        checkpoint_seconds: float, seconds between checkpoints, which fall at the end of
            a call inside a task or at a task's end. Default 30.
        evaluate_earlier: bool, whether rows hold the accuracy on all earlier tasks too
            (test data where meaningful, else training data). Default False.
        progress: bool, whether progress is shown. Default True.
        config: text of the gin configuration, or a function that returns it.

    Returns:
        The rows, one dict per task. A value that means nothing is None:
        `first_presentation_accuracy` and `_loss`, before the first update on an
        example (mean over the first epoch); `online_accuracy` and `_loss`, over all
        presentations, each before its update; `train_accuracy`, `train_loss`,
        `test_accuracy`, `test_loss` at the task's end in inference mode. Losses are
        without penalties. In regressions the four `_squared_error` beside the losses, in
        squared units of the targets whatever the loss is (`loss.decode`). Further `task`,
        `name`, `step` (updates since the run began), `epochs`, `seconds`, `wall_time`
        (seconds since 1970).

    Raises:
        ValueError: an argument does not fit the others.
        run_directory.RunDirectoryError: the directory cannot be written to or holds
            a run of another configuration.
        NonFiniteLossError: the loss became NaN or infinite; the rows so far are kept.
        checkpoint.CheckpointError: checkpoints are there, but none is whole.
    """
    if not isinstance(stream, Stream):
        raise ValueError(f"`stream` must be a `Stream`. Received: stream={stream!r}")
    if fused_steps is not None and fused_steps < 1:
        raise ValueError(f"`fused_steps` must be at least 1. Received: fused_steps={fused_steps}")
    directory = run_directory.prepare(run_dir)
    with run_directory.locked(directory), surgery.seeded(seed):
        task_loss = _loss(loss, stream)
        model = _build(model, stream, task_loss)
        _compile(model, optimizer, task_loss, stream, jit_compile)
        size = fused_steps or steps_per_call(model, stream.batch_size)
        training = Training(stream, model, callbacks, task_loss, size, directory)
        streamed = stream.get_config()
        run_directory.check_config(
            directory,
            {
                "seed": seed,
                "stream": streamed,
                "model": _model_config(model),
                "optimizer": _described(model.optimizer),
                "loss": _described(task_loss),
                "callbacks": [_described(callback) for callback in callbacks],
                "fused_steps": training.size,
                "jit_compile": bool(model.jit_compile),
                "evaluate_earlier": evaluate_earlier,
            },
        )
        try:
            training.restore(checkpoint_seconds)
            if training.finished:
                return training.rows
            run_directory.write_run(
                directory,
                {"benchmark": benchmark, "method": method, "seed": seed},
                {
                    "num_tasks": len(stream),
                    "stream": hashlib.sha256(repr(streamed).encode()).hexdigest()[:16],
                    "uses_task_boundaries": any(
                        getattr(c, "uses_task_boundaries", hasattr(c, "on_task_begin"))
                        for c in callbacks
                    ),
                },
            )
            if config is not None:
                text = config if isinstance(config, str) else config()
                checkpoint.write_whole(directory / run_directory.GIN, text.encode())
            _loop(training, benchmark, method, seed, evaluate_earlier, progress)
        finally:
            StepHooks.of(model).release()
    return training.rows


def _loop(training: Training, benchmark, method, seed, evaluate_earlier, progress) -> None:
    """The tasks that are left."""
    stream = training.stream
    info = {"intervention": method, "seed": seed, "group": benchmark, "hparams": {}}
    probes: dict = {}
    for monitor in training.monitors:
        probes |= monitor.descriptions
    events = training.events = EventWriter(training.run_dir, info, training.records, probes)
    title = " ".join(str(label) for label in (benchmark, method, f"seed {seed}") if label)
    try:
        with Progress(title, len(stream), training.task_index, progress) as display:
            for index in range(training.task_index, len(stream)):
                events.task_begin(index, time.time())
                row = training.train(stream[index], display)
                if evaluate_earlier:
                    row["earlier_accuracy"] = training.earlier_accuracy()
                events.row(row)  # first: a resumed run writes events anew from the rows
                alarms = [c for c in training.callbacks if isinstance(c, PlasticityAlarm)]
                stopped = any(alarm.stopped for alarm in alarms)
                training.finish(row, stopped)
                if stopped:
                    break
    finally:
        events.close()
        for monitor in training.monitors:
            monitor.leave()


def _loss(loss, stream: Stream):
    """The loss without penalties, which depends on the targets by default."""
    if loss is not None:
        return keras.losses.get(loss)
    if stream.num_classes is not None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.MeanSquaredError()


def _build(model, stream: Stream, loss) -> keras.Model:
    bins = getattr(loss, "bins", None)
    if bins is not None and stream.num_classes is not None:
        raise ValueError(
            "`loss` must be one of classes. Received: a stream of class labels and the loss of a "
            f"regression, loss={loss!r}"
        )
    outputs = stream.num_outputs if bins is None else bins
    if not isinstance(model, keras.Model):
        model = model(stream.input_shape, outputs)
    if not model.built:
        model.build((None, *stream.input_shape))
    takes, given = tuple(model.input_shape[1:]), tuple(stream.input_shape)
    fits = len(takes) == len(given) and all(
        a in (None, b) for a, b in zip(takes, given, strict=True)
    )
    if not fits:
        raise ValueError(
            "`model` must take the inputs of `stream`. Received: a model for inputs of shape "
            f"{takes} and a stream of shape {given}"
        )
    if model.output_shape[-1] != outputs:
        wanted, other = "class or target of `stream`", f"a stream with {outputs}"
        if bins is not None:
            wanted, other = "bin of `loss`", f"a loss with {bins} bins"
        raise ValueError(
            f"`model` must have one output per {wanted}. Received: a model with "
            f"{model.output_shape[-1]} outputs and {other}"
        )
    return model


def _compile(model, optimizer, loss, stream: Stream, jit_compile: bool) -> None:
    """Compiles and builds everything."""
    classes = stream.num_classes is not None
    metrics: list = ["accuracy"] if classes else [DecodedMeanSquaredError(loss)]
    if model.losses:  # the loss that is trained on has penalties in it
        metrics.append(keras.metrics.MeanMetricWrapper(loss, name="task_loss"))
    model.compile(optimizer, loss, metrics=metrics, jit_compile=jit_compile)
    layers = model._flatten_layers()
    if jit_compile and any(type(x) is keras.layers.Dropout and x.rate > 0 for x in layers):
        warnings.warn(
            "keras.layers.Dropout is many times slower under XLA on CPU than "
            "keras_plasticity.layers.Dropout, which computes the same.",
            stacklevel=3,
        )
    inputs, targets = stream.element_spec
    model._symbolic_build(
        data_batch=(tf.zeros(inputs.shape, inputs.dtype), tf.zeros(targets.shape, targets.dtype))
    )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _model_config(model: keras.Model):
    """The model's configuration, with places for names, which Keras numbers through."""
    try:
        config = model.get_config()
    except NotImplementedError:
        return [[variable.path, list(variable.shape)] for variable in model.variables]
    places = {layer.name: f"#{i}" for i, layer in enumerate(model._flatten_layers())}
    return _renamed(config, places)


def _renamed(config, places: dict[str, str]):
    if isinstance(config, dict):
        return {key: _renamed(value, places) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_renamed(value, places) for value in config]
    return places.get(config, config) if isinstance(config, str) else config


def _described(thing) -> list:
    config = thing.get_config() if hasattr(thing, "get_config") else {}
    config = {key: value for key, value in config.items() if key != "name"}
    return [getattr(thing, "__name__", type(thing).__name__), _without_names(config)]


def _without_names(config):
    """Drops the names of Keras objects in a configuration: Keras numbers them through."""
    if isinstance(config, (list, tuple)):
        return [_without_names(value) for value in config]
    if not isinstance(config, dict):
        return config
    inner = {key: _without_names(value) for key, value in config.items()}
    if "class_name" in inner and isinstance(inner.get("config"), dict):
        inner["config"].pop("name", None)
    return inner
