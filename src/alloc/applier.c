/* SPDX-License-Identifier: Apache-2.0 */
#include "applier.h"

#include "../store/atomic.h"
#include "../store/background.h"
#include "heap.h"

void applier_init(struct applier *applier, bool may_run)
{
	*applier = (struct applier){.may_run = may_run};
	pthread_mutex_init(&applier->mutex, NULL);
	pthread_cond_init(&applier->changed, NULL);
}

static void *run(void *arg)
{
	struct heap *heap = arg;
	struct applier *applier = &heap->applier;

	pthread_mutex_lock(&applier->mutex);
	while (!applier->ends) {
		if (!applier->is_due) {
			pthread_cond_wait(&applier->changed, &applier->mutex);
			continue;
		}
		applier->is_due = false;
		pthread_mutex_unlock(&applier->mutex);
		atomic_apply(heap->store.atomic);
		gate_give(&heap->gate);
		pthread_mutex_lock(&applier->mutex);
	}
	pthread_mutex_unlock(&applier->mutex);
	return NULL;
}

bool applier_hand_over(struct heap *heap)
{
	struct applier *applier = &heap->applier;

	if (!applier->runs && applier->may_run)
		applier->may_run = applier->runs = background_start(&applier->thread, run, heap) == 0;
	if (!applier->runs)
		return false;
	gate_hand_over(&heap->gate);
	pthread_mutex_lock(&applier->mutex);
	applier->is_due = true;
	pthread_cond_signal(&applier->changed);
	pthread_mutex_unlock(&applier->mutex);
	return true;
}

void applier_destroy(struct applier *applier)
{
	if (applier->runs) {
		pthread_mutex_lock(&applier->mutex);
		applier->ends = true;
		pthread_cond_signal(&applier->changed);
		pthread_mutex_unlock(&applier->mutex);
		background_join(applier->thread);
	}
	pthread_mutex_destroy(&applier->mutex);
	pthread_cond_destroy(&applier->changed);
}
