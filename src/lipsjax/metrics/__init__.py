"""Measures as pure functions of pytrees: inertia, evaluation, costs."""
