"""Which mechanism of plasticity loss is at work in a network, and what to do about it."""

from keras_plasticity.diagnosis.examination import diagnose
from keras_plasticity.diagnosis.findings import Diagnosis, Evidence, Finding
from keras_plasticity.diagnosis.mechanism import Indicator, Mechanism, Remedy
from keras_plasticity.diagnosis.mechanisms import MECHANISMS

__all__ = [
    "MECHANISMS",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Indicator",
    "Mechanism",
    "Remedy",
    "diagnose",
]
