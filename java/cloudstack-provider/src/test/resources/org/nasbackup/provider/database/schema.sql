-- What 4.22.0's database has of the tables that the provider and the manager write, and of those they refer to what is
-- needed to refer to them: types, defaults and keys are those that its schema files end with.

create table domain (
  id bigint unsigned not null auto_increment primary key,
  parent bigint unsigned,
  path varchar(255) not null
) engine=InnoDB default charset=utf8;

create table account (
  id bigint unsigned not null auto_increment primary key,
  domain_id bigint unsigned,
  constraint fk_account__domain_id foreign key (domain_id) references domain (id)
) engine=InnoDB default charset=utf8;

create table data_center (
  id bigint unsigned not null auto_increment primary key
) engine=InnoDB default charset=utf8;

create table backup_offering (
  id bigint unsigned not null auto_increment primary key,
  uuid varchar(40) not null unique,
  name varchar(255) character set utf8mb4 not null,
  description varchar(255) character set utf8mb4 not null,
  external_id varchar(255) default null,
  user_driven_backup tinyint(1) unsigned not null default 0,
  zone_id bigint unsigned not null,
  provider varchar(255) not null,
  created datetime default null,
  removed datetime default null,
  constraint fk_backup_offering__zone_id foreign key (zone_id) references data_center (id) on delete cascade
) engine=InnoDB default charset=utf8;

create table backup_repository (
  id bigint unsigned not null auto_increment primary key,
  uuid varchar(255) not null,
  name varchar(255) character set utf8mb4 not null,
  zone_id bigint unsigned not null,
  provider varchar(255) not null,
  type varchar(255) not null,
  address varchar(1024) not null,
  mount_opts varchar(1024) not null,
  used_bytes bigint unsigned,
  capacity_bytes bigint unsigned,
  created datetime,
  removed datetime,
  cross_zone_instance_creation tinyint(1) default null,
  index i_backup_repository__uuid (uuid),
  index i_backup_repository__zone_id_provider (zone_id, provider)
) engine=InnoDB default charset=utf8;

create table vm_instance (
  id bigint unsigned not null primary key,
  instance_name varchar(255) not null,
  account_id bigint unsigned not null,
  domain_id bigint unsigned not null,
  data_center_id bigint unsigned not null,
  removed datetime,
  backup_offering_id bigint unsigned default null,
  backup_external_id varchar(255) default null,
  backup_volumes text default null,
  constraint fk_vm_instance__account_id foreign key (account_id) references account (id)
) engine=InnoDB default charset=utf8;

create table vm_instance_details (
  id bigint unsigned not null auto_increment primary key,
  vm_id bigint unsigned not null,
  name varchar(255) not null,
  value varchar(5120) character set utf8mb4 not null,
  display tinyint(1) not null default 1,
  index i_name_vm_id (vm_id, name),
  constraint fk_vm_instance_details__vm_id foreign key (vm_id) references vm_instance (id) on delete cascade
) engine=InnoDB default charset=utf8;

create table backups (
  id bigint unsigned not null auto_increment primary key,
  uuid varchar(40) not null unique,
  vm_id bigint unsigned not null,
  external_id varchar(255) default null,
  type varchar(255) not null,
  size bigint default 0,
  protected_size bigint default 0,
  status varchar(32) default null,
  backup_offering_id bigint unsigned not null,
  account_id bigint unsigned not null,
  domain_id bigint unsigned not null,
  zone_id bigint unsigned not null,
  removed datetime default null,
  date datetime,
  backed_volumes text character set utf8mb4 default null,
  backup_schedule_id bigint unsigned,
  name varchar(255) not null,
  description varchar(1024),
  backup_interval_type int(5),
  constraint fk_backup__vm_id foreign key (vm_id) references vm_instance (id) on delete cascade,
  constraint fk_backup__account_id foreign key (account_id) references account (id) on delete cascade
) engine=InnoDB default charset=utf8;

create table backup_details (
  id bigint unsigned not null auto_increment primary key,
  backup_id bigint unsigned not null,
  name varchar(255) not null,
  value text not null,
  display tinyint(1) not null default 1,
  constraint fk_backup_details__backup_id foreign key (backup_id) references backups (id) on delete cascade
) engine=InnoDB default charset=utf8;

create table backup_schedule (
  id bigint unsigned not null auto_increment primary key,
  vm_id bigint unsigned not null,
  schedule_type int(4) default null,
  schedule varchar(100) default null,
  timezone varchar(100) default null,
  scheduled_timestamp datetime default null,
  async_job_id bigint unsigned default null,
  max_backups int(8) unsigned not null default 0,
  quiescevm tinyint(1) default null,
  uuid varchar(40) not null,
  domain_id bigint default null,
  account_id bigint default null,
  constraint fk_backup_schedule__vm_id foreign key (vm_id) references vm_instance (id) on delete cascade
) engine=InnoDB default charset=utf8;

create table resource_count (
  id bigint unsigned not null auto_increment primary key,
  account_id bigint unsigned,
  domain_id bigint unsigned,
  type varchar(255),
  count bigint not null default 0,
  tag varchar(64) default null,
  constraint fk_resource_count__account_id foreign key (account_id) references account (id) on delete cascade,
  constraint fk_resource_count__domain_id foreign key (domain_id) references domain (id) on delete cascade,
  index i_resource_count__type (type),
  unique i_resource_count__type_tag_accountId (type, tag, account_id),
  unique i_resource_count__type_tag_domainId (type, tag, domain_id)
) engine=InnoDB default charset=utf8;

create table user (
  id bigint unsigned not null auto_increment primary key
) engine=InnoDB default charset=utf8;

create table user_details (
  id bigint unsigned not null auto_increment primary key,
  user_id bigint unsigned not null,
  name varchar(255) not null,
  value varchar(1024) not null,
  display tinyint(1) not null default 1,
  constraint fk_user_details__user_id foreign key (user_id) references user (id) on delete cascade
) engine=InnoDB default charset=utf8;

insert into user (id) values (1);
insert into domain (id, parent, path) values (1, null, '/'), (3, 1, '/d/');
insert into account (id, domain_id) values (2, 3);
insert into data_center (id) values (1);
insert into backup_offering (id, uuid, name, description, external_id, user_driven_backup, zone_id, provider)
  values (5, 'offering-5', 'daily', 'daily', 'repository-1', 1, 1, 'nas');
insert into backup_repository (id, uuid, name, zone_id, provider, type, address, mount_opts)
  values (1, 'repository-1', 'the NAS', 1, 'nas', 'nfs', '192.0.2.9:/b', '');
insert into vm_instance (id, instance_name, account_id, domain_id, data_center_id, backup_offering_id)
  values (10, 'i-2-10-VM', 2, 3, 1, 5), (11, 'i-2-11-VM', 2, 3, 1, null);
insert into resource_count (account_id, domain_id, type) values
  (2, null, 'backup'), (null, 3, 'backup'), (null, 1, 'backup'),
  (2, null, 'backup_storage'), (null, 3, 'backup_storage'), (null, 1, 'backup_storage')
