"""From a study file to its answer; imports everything, imported by nobody."""
