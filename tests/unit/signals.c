/* SPDX-License-Identifier: Apache-2.0
 *
 * Holding signals (os.h): which of them reach a thread meanwhile, and which do not.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "os/os.h"

#include <signal.h>

static volatile sig_atomic_t handled;

static void handle(int sig)
{
	handled = sig;
}

/* What a thread causes itself would kill the process if it were held. */
static void own_signals_are_not_held(void **state)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGUSR1, SIGALRM};
	struct sigaction action = {.sa_handler = handle}, before;
	sigset_t mask;

	(void)state;
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		assert_int_equal(sigaction(signals[i], &action, &before), 0);
		handled = 0;
		os_linux.hold_signals(&mask);
		raise(signals[i]);
		assert_int_equal(handled, i < 6 ? signals[i] : 0);
		os_linux.release_signals(&mask);
		assert_int_equal(handled, signals[i]);
		assert_int_equal(sigaction(signals[i], &before, NULL), 0);
	}
}

/* But one that the thread itself has blocked stays so: a thread with all signals blocked runs no handler. */
static void blocked_signals_stay_blocked(void **state)
{
	struct sigaction action = {.sa_handler = handle}, before;
	sigset_t trap, outer, mask;

	(void)state;
	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &trap, &outer), 0);
	handled = 0;
	raise(SIGTRAP);
	os_linux.hold_signals(&mask);
	assert_int_equal(handled, 0);
	os_linux.release_signals(&mask);
	assert_int_equal(handled, 0);
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &outer, NULL), 0);
	assert_int_equal(handled, SIGTRAP);
	assert_int_equal(sigaction(SIGTRAP, &before, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_signals_are_not_held),
		cmocka_unit_test(blocked_signals_stay_blocked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
