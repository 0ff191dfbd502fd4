"""Commands: what can be done to the ledger. Each is a function of one transaction.

Every change of a state is a compare-and-set on the state, and on the claim where the work was claimed; it
returns False where the job has moved on meanwhile. Commands set ``jobs.event``, and triggers of the database
write the history from it.
"""
