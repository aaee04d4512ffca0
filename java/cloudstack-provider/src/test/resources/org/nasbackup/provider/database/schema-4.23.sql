-- What the schema files of 4.22.1 and 4.23 make of it.

alter table backups
  drop column backup_interval_type,
  add column from_checkpoint_id varchar(255) default null,
  add column to_checkpoint_id varchar(255) default null,
  add column checkpoint_create_time bigint default null,
  add column host_id bigint unsigned default null,
  add column uncompressed_size bigint unsigned,
  add column compression_status varchar(55),
  add column validation_status varchar(55);

alter table backup_schedule add column isolated tinyint(1) not null default 0
