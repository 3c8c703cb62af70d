"""The table of mechanisms: what shows each, from where on it counts, and what acts on it.

The thresholds were chosen on development seeds 0 to 9 of `tests/benchmarks/diagnosis.py` with
an MLP, an MLP with layer normalisation and a CNN on digits, and frozen before other seeds and
architectures were looked at; none was moved since, but those of preactivation shift and
trainability, which the study leaves out: they were set later, on the same development seeds (of
the CNN 0 to 2) with `--calibrate`, and no held-out network was looked at. `source` says of each
where it comes from.
Networks unlike those (of millions of weights, trained for days) may need others.
"""

from __future__ import annotations

from keras_plasticity.diagnosis import remedies
from keras_plasticity.diagnosis.mechanism import Indicator, Mechanism, Remedy

STUDY = "development study, tests/benchmarks/diagnosis.py"
CALIBRATION = f"{STUDY} --calibrate"
LYLE = "Lyle et al. 2024, arXiv 2402.18762"
JOUDAKI = "Joudaki et al. 2025, arXiv 2510.00304"
ROY = "Roy and Vetterli 2007"

TARGETS = Mechanism(
    "large_targets",
    "Large regression targets",
    "The network has to build the offset or scale of its targets out of its features: one "
    "direction of the features grows and the loss becomes ill-conditioned.",
    (
        Indicator(
            "target_magnitude",
            "root mean square of the targets, less what the output bias already gives",
            "sqrt(mean((y - output_bias) ** 2))",
            "units of the output",
            10.0,
            30.0,
            f"offsets in {LYLE} (protocol of the target offset); thresholds: {STUDY}",
            logarithmic=True,
        ),
    ),
    ("norm_growth", "rank_collapse", "linearised_units", "dead_units"),
    (
        Remedy(
            "train on normalised targets; `loss.decode` undoes it when predicting",
            "loss = kp.losses.TargetNormalization.of(y)",
        ),
        Remedy(
            "an output layer that follows targets that move, and its callback for `fit`",
            "kp.layers.PopArt(outputs), kp.callbacks.PopArtUpdate()",
        ),
        Remedy(
            "classify into bins instead of regressing, with `bins` outputs per target",
            "loss = kp.losses.TwoHot(low, high, bins)",
        ),
        Remedy(
            "the same, with targets spread over neighbouring bins",
            "loss = kp.losses.HLGauss(low, high, bins)",
        ),
    ),
)
SHIFT = Mechanism(
    "preactivation_shift",
    "Preactivation shift",
    "The preactivations of a layer were pushed to one side together.",
    (
        Indicator(
            "position_shift",
            "common shift of living units, in their own standard deviations, against the reference",
            "abs(mean_i(mu_i / sigma_i) - mean_i(mu0_i / sigma0_i))",
            "standard deviations",
            2.5,
            4.0,
            f"mechanism: {LYLE}; formula: ours; thresholds: {CALIBRATION}, healthy networks "
            "against their start 2.3 at most, all units pushed by 2 deviations 1.7 to 4.3",
            "preactivation_mean_shift",
        ),
    ),
    ("dead_units", "linearised_units"),
    (
        remedies.FORTIFY,
        remedies.NORM,
        Remedy(
            "each unit centred and scaled over the batch, between kernel and nonlinearity",
            'kp.layers.CenterScale("batch", "batch")',
        ),
    ),
)
NORMS = Mechanism(
    "norm_growth",
    "Growth of parameter norms",
    "Weights are much larger than at the start: steps are small beside them, the loss is sharp, "
    "and what they feed saturates.",
    (
        Indicator(
            "hidden_growth",
            "largest growth of a hidden layer's weights",
            "rms(w) / rms(w at the start)",
            "times",
            3.0,
            5.0,
            f"mechanism: {LYLE}; thresholds: {STUDY}",
            "weight_norm",
            logarithmic=True,
        ),
        Indicator(
            "output_growth",
            "growth of the output layer's kernel",
            "rms(w) / rms(w at the start)",
            "times",
            5.0,
            10.0,
            STUDY,
            "weight_norm",
            logarithmic=True,
        ),
    ),
    ("saturation", "dead_units", "linearised_units"),
    (
        Remedy(
            "pull weights toward where they began",
            "kp.optimizers.Regularized(optimizer, [kp.regularizers.L2Init(1e-2)])",
        ),
        Remedy("decoupled decay", "kp.optimizers.DecoupledDecay(optimizer, 0.1)"),
        Remedy(
            "bound every weight, in a network that exists",
            "kp.constraints.constrain(model, kp.constraints.WeightClipping(2.0))",
        ),
        Remedy(
            "keep the norms of kernels, behind which all is normalised; with a schedule of rates",
            "kp.callbacks.FrobeniusProjection()",
        ),
    ),
)
LINEARISED = Mechanism(
    "linearised_units",
    "Linearised (zombie) units",
    "Units that are always on, or whose preactivation hardly varies: they are straight lines and "
    "the layer adds no depth. Scores of dormancy cannot see them.",
    (
        Indicator(
            "linearised_share",
            "share of units that are linear on all examples",
            "mean((P(a > 0) >= .99) or (1 - corr(a, h)**2 <= .01 for a smooth phi))",
            "share of units",
            0.3,
            0.42,
            f"definition: {LYLE}; tolerance and thresholds: {STUDY}",
            "linearised_fraction",
        ),
        Indicator(
            "linearised_layer",
            "the same share in the worst layer",
            "max over layers",
            "share of units",
            0.5,
            0.7,
            STUDY,
            "linearised_fraction",
        ),
    ),
    ("dead_units", "rank_collapse", "cloned_units"),
    (
        remedies.FORTIFY,
        remedies.NORM,
        Remedy(
            "draw the layers' weights anew at task boundaries",
            "kp.callbacks.LayerReset(last=2)",
        ),
        remedies.SHRINK,
    ),
)
DEAD = Mechanism(
    "dead_units",
    "Dead units",
    "Units that pass no gradient on any example, so that nothing ever changes them.",
    (
        Indicator(
            "dead_share",
            "share of units without gradient on all examples",
            "mean(max_x |phi'(a(x))| < 1e-3)",
            "share of units",
            0.35,
            0.45,
            f"definition: {LYLE}; 1e-3 and thresholds: {STUDY}",
            "dead_fraction",
        ),
        Indicator(
            "dead_layer",
            "the same share in the worst layer",
            "max over layers",
            "share of units",
            0.6,
            0.8,
            STUDY,
            "dead_fraction",
        ),
    ),
    ("rank_collapse", "linearised_units"),
    (
        remedies.FORTIFY,
        Remedy("recycle dormant units", "kp.callbacks.ReDo(period=1000, threshold=0.025)"),
        Remedy("reset units that have not fired for long", "kp.callbacks.SelfNormalizedResets()"),
        Remedy("replace the least useful units all the time", "kp.callbacks.ContinualBackprop()"),
        Remedy("a nonlinearity that always passes gradient", "keras.layers.LeakyReLU(0.1)"),
    ),
)
CLONES = Mechanism(
    "cloned_units",
    "Cloned units",
    "Units that compute the same as another unit of their layer; gradients keep them equal.",
    (
        Indicator(
            "redundant_share",
            "share of living units that copy another one, in activations and in weights",
            "1 - distinct / living, alike: cos(h_i, h_j) > .95 and cos(w_i, w_j) > .95",
            "share of units",
            0.1,
            0.2,
            f"cosine of activations: {JOUDAKI}; weights and thresholds: {STUDY}",
            "cloned_fraction",
        ),
        Indicator(
            "redundant_layer",
            "the same share in the worst layer",
            "max over layers",
            "share of units",
            0.2,
            0.4,
            STUDY,
            "cloned_fraction",
        ),
    ),
    ("rank_collapse",),
    (
        remedies.PARSEVAL,
        Remedy("noise that parts the copies", "kp.layers.Dropout(0.1)"),
        Remedy(
            "a little noise at every task boundary",
            "kp.callbacks.ShrinkAndPerturb(shrink=0.9, perturb=0.1)",
        ),
        remedies.ORTHOGONAL,
    ),
)
RANK = Mechanism(
    "rank_collapse",
    "Rank collapse",
    "Kernels or features use few of their directions, so that new targets cannot be reached.",
    (
        Indicator(
            "own_rank_share",
            "lowest effective rank of a kernel, beside a random kernel of its shape, among units "
            "that live and are no copies",
            "effective_rank(W[:, distinct]) / effective_rank(random W of this shape)",
            "share",
            0.7,
            0.5,
            f"effective rank: {ROY}; thresholds: {STUDY}",
        ),
        Indicator(
            "kernel_rank_share",
            "the same of all units, copies and dead ones among them",
            "effective_rank(W) / effective_rank(random W), dead units' columns set to 0",
            "share",
            0.5,
            0.3,
            f"effective rank: {ROY}; thresholds: {STUDY}",
        ),
        Indicator(
            "feature_rank_share",
            "lowest effective rank of a layer's centred features, beside its units",
            "effective_rank(h - mean(h)) / min(units, examples - 1)",
            "share",
            0.1,
            0.05,
            f"effective rank: {ROY}; thresholds: {STUDY}",
            "effective_rank(features)",
        ),
    ),
    ("cloned_units",),
    (
        remedies.PARSEVAL,
        Remedy(
            "largest singular values near 1",
            "kp.optimizers.Regularized(optimizer, [kp.regularizers.SpectralRegularizer(1e-4)])",
        ),
        remedies.ORTHOGONAL,
        Remedy("draw layers anew at task boundaries", "kp.callbacks.LayerReset(last=2)"),
    ),
)
SATURATION = Mechanism(
    "saturation",
    "Softmax saturation",
    "Logits lie so far apart that the gradient of right answers is zero and that of wrong ones "
    "does not depend on the input: changed labels are learnt by first undoing the logits.",
    (
        Indicator(
            "logit_margin",
            "median distance between the two largest logits",
            "median(top1 - top2)",
            "nats",
            20.0,
            40.0,
            "softmax gradients round to 0 in float32 from 15.9 on; "
            f"mechanism: {LYLE}; thresholds: {STUDY}",
            "logit_margin",
            logarithmic=True,
        ),
        Indicator(
            "logit_growth",
            "growth of the output layer's kernel, which scales the logits",
            "rms(w) / rms(w at the start)",
            "times",
            5.0,
            10.0,
            STUDY,
            "weight_norm",
            logarithmic=True,
        ),
    ),
    (),
    (
        Remedy(
            "label smoothing, of integer labels",
            "loss = kp.losses.SmoothedSparseCategoricalCrossentropy(0.1)",
        ),
        Remedy("an output layer whose logits are bounded", "kp.layers.NormalizedLogits(outputs)"),
        remedies.DECAY,
        Remedy("draw the output layer anew at task boundaries", "kp.callbacks.LayerReset(last=1)"),
    ),
)
TRAINABILITY = Mechanism(
    "trainability",
    "Trainability",
    "What counts in the end: a copy of the network learns a random target worse than a freshly "
    "initialised network does.",
    (
        Indicator(
            "trainability_gap",
            "score over a fixed budget on random targets, of fresh networks minus this one",
            "mean(score of fresh) - mean(score of a copy); accuracy, or share of the variance",
            "score",
            0.4,
            0.6,
            f"formula: ours; thresholds: {CALIBRATION}, healthy networks .05 at most when fresh "
            "and .37 after 30 epochs; norms times ten .42 to .60, half of all units linear .38 to "
            ".60",
            "trainability_gap",
        ),
    ),
    (),
    (
        remedies.FORTIFY,
        remedies.SHRINK,
        Remedy("draw layers anew at task boundaries", "kp.callbacks.LayerReset(last=2)"),
    ),
)

# In the order in which causes stand before what follows from them.
MECHANISMS = (TARGETS, SHIFT, NORMS, LINEARISED, DEAD, RANK, CLONES, SATURATION, TRAINABILITY)
BY_NAME = {mechanism.name: mechanism for mechanism in MECHANISMS}
# What the records of a run show in place of what one look at a network shows.
OF_RUNS = (
    Indicator(
        "rank_fall",
        "effective rank of what the output layer reads, beside the first record",
        "effective_rank / effective_rank at first",
        "share",
        0.5,
        0.25,
        "ours, not calibrated",
        "effective_rank",
    ),
    Indicator(
        "mean_shift",
        "mean distance of units' preactivations from the first record",
        "mean_i(abs(mu_i - mu0_i) / sigma0_i)",
        "standard deviations",
        3.0,
        6.0,
        "ours, not calibrated",
        "preactivation_mean_shift",
    ),
)
INDICATORS = {i.name: i for mechanism in MECHANISMS for i in mechanism.indicators} | {
    i.name: i for i in OF_RUNS
}
