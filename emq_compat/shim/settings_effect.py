"""What each of Celery's settings does here, where it isn't what Celery does: docs/settings.md has the same.

A setting that stands in neither table has Celery's effect.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DIFFERENT", "LACKING", "WITHOUT_EFFECT"]

#: Settings whose effect isn't quite Celery's → how it differs.
DIFFERENT: Final[dict[str, str]] = {
    "accept_content": "JSON is always accepted, too",
    "beat_schedule_filename": "which of the app's schedules a beat runs; a file under a stock router",
    "beat_scheduler": "Celery's default keeps the schedule in the broker",
    "broker_connection_timeout": (
        "seconds within which a publish or a question to the broker is answered, or raises"
    ),
    "broker_failover_strategy": (
        "with kombu brokers, where tasks are published; a worker takes the addresses in turn"
    ),
    "broker_heartbeat": "with RabbitMQ",
    "broker_login_method": "with RabbitMQ",
    "broker_native_delayed_delivery_queue_type": "with RabbitMQ",
    "broker_pool_limit": "idle connections that are kept; there is no upper limit",
    "broker_transport_options": "with kombu brokers; of ours: `emq_dead_after` and `emq_max_redeliveries`",
    "broker_use_ssl": "with kombu brokers",
    "control_exchange": "whose commands a worker hears over a kombu broker, and of genuine Celery over ours",
    "control_queue_durable": "with kombu brokers",
    "control_queue_exclusive": "with kombu brokers",
    "control_queue_expires": "with kombu brokers",
    "control_queue_ttl": "with kombu brokers",
    "event_exchange": "what the topics of events begin with",
    "event_queue_durable": "with kombu brokers",
    "event_queue_exclusive": "with kombu brokers",
    "event_queue_expires": "with kombu brokers",
    "event_queue_prefix": "with kombu brokers",
    "event_queue_ttl": "with kombu brokers",
    "event_serializer": "what is received may be of it, what is sent is JSON",
    "result_accept_content": "JSON is always accepted, too",
    "result_chord_expires": "with kombu brokers, where the result backend counts",
    "result_chord_join_timeout": "with kombu brokers, where the result backend counts",
    "result_chord_retry_interval": "with kombu brokers and results in a database",
    "result_expires": "until it is set, the broker's `--result-expires` counts for results that it keeps",
    "task_create_missing_queue_type": "with RabbitMQ",
    "task_create_missing_queues": "false: publishing to a queue that task_queues lacks raises QueueNotFound",
    "task_default_delivery_mode": "with RabbitMQ",
    "task_default_exchange": "over emq:// only a name by which task_queues, a route or a call finds a queue",
    "task_default_exchange_type": "topic: a routing_key alone leads to the queue that is bound so",
    "task_default_queue_type": "with RabbitMQ",
    "task_default_routing_key": "over emq:// only a name by which a queue is found",
    "task_queue_max_priority": "with RabbitMQ",
    "task_queues": "over emq:// names, and the exchanges and keys they are found by: no arguments",
    "task_routes": "what a route may say: queue, or exchange and routing_key of one of task_queues; priority",
    "task_serializer": "refused by an error where the broker is a stock router, unless it is JSON",
    "worker_autoscaler": "a class of the project's own must be a subclass of Celery's, as it is here",
    "worker_detect_quorum_queues": "with RabbitMQ",
    "worker_disable_prefetch": "forbids any reserve, with every broker",
    "worker_enable_remote_control": "false: none over a kombu broker, and none of genuine Celery over ours",
    "worker_eta_task_limit": "with kombu brokers; 10,000 unless it is set",
    "worker_pool_restarts": "allows `pool_restart`; with `reload` the whole worker starts again",
    "worker_prefetch_multiplier": "1: no reserve at all; up to 4: with RabbitMQ, how much is held so that it "
    "expires as REVOKED",
}

#: Why a setting does nothing, and a project that relies on it lacks something → the settings.
_LACKING: Final[dict[str, str]] = {
    "there is no such result backend": """
        arangodb_backend_settings azureblockblob_base_path azureblockblob_connection_timeout
        azureblockblob_container_name azureblockblob_read_timeout azureblockblob_retry_increment_base
        azureblockblob_retry_initial_backoff_sec azureblockblob_retry_max_attempts cassandra_auth_kwargs
        cassandra_auth_provider cassandra_bundle_path cassandra_entry_ttl cassandra_keyspace
        cassandra_options cassandra_port cassandra_read_consistency cassandra_servers cassandra_table
        cassandra_write_consistency cosmosdbsql_collection_name cosmosdbsql_consistency_level
        cosmosdbsql_database_name cosmosdbsql_max_retry_attempts cosmosdbsql_max_retry_wait_time
        couchbase_backend_settings elasticsearch_max_retries elasticsearch_retry_on_timeout
        elasticsearch_save_meta_as_text elasticsearch_timeout gcs_base_path gcs_bucket gcs_project gcs_ttl
        mongodb_backend_settings s3_access_key_id s3_base_path s3_bucket s3_endpoint_url s3_region
        s3_secret_access_key
        """,
    "not there yet": """
        result_failure_expires worker_deduplicate_successful_tasks
        """,
    "messages are not signed; CURVE keys protect the connection": """
        security_cert_store security_certificate security_digest security_key security_key_password
        """,
}

#: Why a setting does nothing, and needn't → the settings.
_REASONS: Final[dict[str, str]] = {
    "result backends have no such option here": """
        database_short_lived_sessions override_backends redis_backend_credential_provider
        redis_retry_on_timeout result_backend_thread_safe
        """,
    "a soft shutdown waits only where something runs": "worker_enable_soft_shutdown_on_idle",
    "messages and results have one form here": """
        result_exchange result_exchange_type result_persistent task_protocol
        """,
    "there are only queues here, all durable, all with priorities": "task_create_missing_queue_exchange_type",
    "it belongs to parts of Celery's worker that aren't here": """
        worker_agent worker_consumer worker_pool_putlocks worker_timer worker_timer_precision
        """,
    "a lost child is told at once": "worker_lost_wait",
    "a worker that is cut off goes on with what it has": """
        worker_cancel_long_running_tasks_on_connection_loss
        """,
    "arguments are not logged, a result up to its task's `resultrepr_maxsize`": "task_repr_maxlevels",
    "nothing is fetched ahead of need": "worker_enable_prefetch_count_reduction",
    "connections are made, kept and renewed by other rules": """
        broker_channel_error_retry broker_connection_max_retries broker_connection_retry
        broker_connection_retry_on_startup broker_heartbeat_checkrate
        broker_pool_acquire_timeout broker_transport
        """,
    "the address holds all of it; keys protect the connection": """
        broker_host broker_password broker_port broker_user broker_vhost
        """,
    "nothing is polled or cached": "result_cache_max",
    "revokes are kept by the broker": "worker_state_db",
    "tracebacks are kept as text": "task_remote_tracebacks",
}

#: Settings that are read and kept, and do nothing here → why.
WITHOUT_EFFECT: Final[dict[str, str]] = {
    name: reason for reason, names in (_LACKING | _REASONS).items() for name in names.split()
}
#: Those of them without which a project lacks something.
LACKING: Final = frozenset(name for names in _LACKING.values() for name in names.split())
