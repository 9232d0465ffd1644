"""A run while it goes on: what it tells beside its records, what that comes to, and two views of it (terminal, page).

``now`` what the run writes for it; ``folder`` reading a run's folder, here or over SSH; ``progress`` what it comes to, pure; ``lines`` and
``page`` the views; ``serve`` the page on loopback.
"""
