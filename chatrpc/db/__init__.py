"""PostgreSQL with pgvector: the schema, and every statement that chatrpc makes.

Per-turn statements go through psycopg, written once; all else through SQLAlchemy Core on the same pool.
"""
