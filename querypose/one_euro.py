"""The One-Euro filter (Casiez et al., CHI 2012): little jitter at rest, little lag in motion."""

import math

import numpy as np


class OneEuroFilter:
    """Smooths points over time; a point counts by its confidence.

    A first-order low-pass filter whose cutoff frequency is `min_cutoff` (Hz) at rest and grows by `beta` Hz with every
    unit of speed (lengths of `scale` per second). With gain a = 1 / (1 + 1 / (2 pi cutoff dt)) and confidence c, the
    estimate moves by c a of the way to the measurement; `speed_cutoff` (Hz) smooths the speed likewise.
    """

    def __init__(self, *, min_cutoff: float = 1.0, beta: float = 8.0, speed_cutoff: float = 0.5):
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._points: np.ndarray | None = None
        self._speeds = np.zeros(())

    def __call__(self, points: np.ndarray, confidences: np.ndarray, dt: float, scale: float = 1.0) -> np.ndarray:
        """Return the smoothed points (K, 2); the first are returned as they are.

        points: (K, 2); confidences: (K,) in [0, 1]; dt: seconds since the call before, positive.
        """
        if self._points is None:
            self._points, self._speeds = points.copy(), np.zeros_like(points)
            return points
        speeds = (points - self._points) / dt
        weights = confidences[:, None]
        self._speeds += weights * gain(self.speed_cutoff, dt) * (speeds - self._speeds)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(self._speeds, axis=1, keepdims=True) / scale
        self._points = self._points + weights * gain(cutoff, dt) * (points - self._points)
        return self._points


def gain(cutoff: float | np.ndarray, dt: float) -> float | np.ndarray:
    """Weight of a new value in a first-order low-pass filter of that cutoff frequency (Hz)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))
