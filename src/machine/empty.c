/* SPDX-License-Identifier: BSD-2-Clause */
/* Placeholder until the first source of this folder lands: delete it then. */
extern int machine_placeholder;
int machine_placeholder;
