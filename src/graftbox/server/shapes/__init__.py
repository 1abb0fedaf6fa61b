"""What the bodies, queries and answers of /v1 look like: JSON Schema, and the OpenAPI document's entries."""
