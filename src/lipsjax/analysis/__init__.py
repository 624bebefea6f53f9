"""From numbers to findings: statistics, measures, rules, controls, value, verdict."""
