"""Drills: break the running stack for a while and see whether its metrics tell.

Owns the faults, what each must change and nothing else, and the judgement. A drill works from
outside, as whoever is on call does: process ids of the stack's folder, and the exporter's answers.
"""
