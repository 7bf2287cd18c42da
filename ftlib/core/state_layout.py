"""Where an endpoint keeps uploads and batches below its `state_dir`: the names that serving and erasure share.

STATE/queue/TENANT.BATCH                      a mark while the batch has work left
STATE/tenants/TENANT/files/FILE.data          the content of an upload or of a batch's answers
STATE/tenants/TENANT/files/FILE.json          OpenAI's file object
STATE/tenants/TENANT/batches/BATCH/batch.json OpenAI's batch object
                                   input      the uploaded file, linked
                                   journal.N  finished rows, one JSON object a line
"""

TENANTS, FILES, BATCHES, QUEUE = "tenants", "files", "batches", "queue"
DATA, OBJECT = "data", "json"
"""Endings of the content and of the file object."""
BATCH_OBJECT, BATCH_INPUT, JOURNAL = "batch.json", "input", "journal"
