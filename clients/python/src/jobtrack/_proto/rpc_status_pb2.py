"""Messages of rpc_status.proto. Written by generate.py."""

from jobtrack._proto import _pool

_pool.add(
    """
    ChBycGNfc3RhdHVzLnByb3RvEgxqb2J0cmFjay5ycGMaGWdvb2dsZS9wcm90b2J1Zi9hbnkucHJvdG8aHmdvb2dsZS9wcm90b2J1Zi9kdXJh
    dGlvbi5wcm90byJmCgZTdGF0dXMSEgoEY29kZRgBIAEoBVIEY29kZRIYCgdtZXNzYWdlGAIgASgJUgdtZXNzYWdlEi4KB2RldGFpbHMYAyAD
    KAsyFC5nb29nbGUucHJvdG9idWYuQW55UgdkZXRhaWxzIrsBCglFcnJvckluZm8SFgoGcmVhc29uGAEgASgJUgZyZWFzb24SFgoGZG9tYWlu
    GAIgASgJUgZkb21haW4SQQoIbWV0YWRhdGEYAyADKAsyJS5qb2J0cmFjay5ycGMuRXJyb3JJbmZvLk1ldGFkYXRhRW50cnlSCG1ldGFkYXRh
    GjsKDU1ldGFkYXRhRW50cnkSEAoDa2V5GAEgASgJUgNrZXkSFAoFdmFsdWUYAiABKAlSBXZhbHVlOgI4ASKqAQoKQmFkUmVxdWVzdBJSChBm
    aWVsZF92aW9sYXRpb25zGAEgAygLMicuam9idHJhY2sucnBjLkJhZFJlcXVlc3QuRmllbGRWaW9sYXRpb25SD2ZpZWxkVmlvbGF0aW9ucxpI
    Cg5GaWVsZFZpb2xhdGlvbhIUCgVmaWVsZBgBIAEoCVIFZmllbGQSIAoLZGVzY3JpcHRpb24YAiABKAlSC2Rlc2NyaXB0aW9uIkcKCVJldHJ5
    SW5mbxI6CgtyZXRyeV9kZWxheRgBIAEoCzIZLmdvb2dsZS5wcm90b2J1Zi5EdXJhdGlvblIKcmV0cnlEZWxheWIGcHJvdG8z
    """
)
Status = _pool.message("jobtrack.rpc.Status")
ErrorInfo = _pool.message("jobtrack.rpc.ErrorInfo")
BadRequest = _pool.message("jobtrack.rpc.BadRequest")
RetryInfo = _pool.message("jobtrack.rpc.RetryInfo")
