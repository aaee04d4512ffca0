// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package org.nasbackup.cloudstack;

/**
 * Marks a restore that reads an incremental backup together with all backups that it stands on, and pairs volumes by name and
 * serial. CloudStack's class has the same name as ours: this interface tells which of the two a class path has first.
 */
public interface RestoresChains {}
