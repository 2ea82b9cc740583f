-- Which server and database this is, and what it allows. The time of its start tells a server from its copies.
select i.system_identifier::text, i.system_identifier || ', started ' || pg_postmaster_start_time(),
       current_database()::text, current_setting('server_encoding'), pg_is_in_recovery(),
       current_setting('max_prepared_transactions')::int, current_user::text
  from pg_control_system() i
