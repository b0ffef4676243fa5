/* SPDX-License-Identifier: BSD-2-Clause */
/* Standard input, output and error of a program whose caller may have closed them. */
#pragma once

/* First thing in main(): whichever of the three is closed is /dev/null from now on. Else the next file that is opened,
 * an image perhaps, would get what is printed. */
void standard_files_keep(void);
