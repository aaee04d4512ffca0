create table vm_instance (
  id bigint unsigned not null auto_increment primary key
) engine=InnoDB;

create table backups (
  id bigint unsigned not null auto_increment primary key,
  uuid varchar(40) not null unique,
  vm_id bigint unsigned not null,
  external_id varchar(255),
  type varchar(255) not null,
  date datetime,
  removed datetime,
  size bigint default 0,
  protected_size bigint default 0,
  status varchar(32) not null,
  backup_offering_id bigint unsigned not null,
  account_id bigint unsigned not null,
  domain_id bigint unsigned not null,
  zone_id bigint unsigned not null,
  backed_volumes text,
  name varchar(255),
  description varchar(1024)
) engine=InnoDB;

create table backup_details (
  id bigint unsigned not null auto_increment primary key,
  backup_id bigint unsigned not null,
  name varchar(255) not null,
  value text not null,
  display tinyint(1) not null default 1,
  constraint fk_backup_details foreign key (backup_id) references backups (id) on delete cascade
) engine=InnoDB;

create table vm_instance_details (
  id bigint unsigned not null auto_increment primary key,
  vm_id bigint unsigned not null,
  name varchar(255) not null,
  value varchar(5120) not null,
  display tinyint(1) not null default 1,
  constraint fk_vm_instance_details foreign key (vm_id) references vm_instance (id) on delete cascade
) engine=InnoDB;

create table resource_count (
  account_id bigint unsigned not null,
  type varchar(255) not null,
  count bigint not null,
  primary key (account_id, type)
) engine=InnoDB;

insert into vm_instance (id) values (10), (11)
